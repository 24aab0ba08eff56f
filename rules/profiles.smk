"""What rules get of a machine: settings of profiles and of the command line, put together before the first rule."""

from snakemake.cli import get_argument_parser
from snakemake.resources import Resources
from snakemake.settings.types import ExecMode


def keep_profile():
    """Let --set-resources, --set-threads, --default-resources and a study's own profile change what they name alone.

    Snakemake alone would drop all that a profile sets under a key that is also on the command line, such as the
    partitions of all rules as soon as one rule gets more memory.
    """
    # Another program that runs the workflow has settings of its own.
    if "snakemake" not in Path(sys.argv[0]).parts[-2:]:
        return
    given, _ = get_argument_parser().parse_known_args()
    # Jobs are told what was put together here.
    if given.mode != ExecMode.DEFAULT:
        return
    chosen = workflow.resource_settings
    for profile in [
        workflow_profile(given.workflow_profile),
        *reversed(given.profile or []),
    ]:
        if profile in (None, "none"):
            continue
        behind, _ = get_argument_parser(profiles=[profile]).parse_known_args([])
        chosen.overwrite_threads = {**behind.set_threads, **chosen.overwrite_threads}
        for name, resources in behind.set_resources.items():
            resources.update(chosen.overwrite_resources.get(name, {}))
        chosen.overwrite_resources = {
            **chosen.overwrite_resources,
            **behind.set_resources,
        }
        if behind.default_resources:
            behind.default_resources.update(told(chosen.default_resources))
            chosen.default_resources = behind.default_resources


def workflow_profile(name):
    """Find a study's own profile where Snakemake finds it: at a path, or by its name in profiles/."""
    named = Path("profiles", name or "default")
    places = [named, Path(workflow.basedir, named)]
    if name:
        places.insert(0, Path(name))
    return next((str(place) for place in places if place.exists()), None)


def told(resources):
    """Leave out the default resources that Snakemake adds by itself to those that it is told."""
    added = Resources.default("full")
    return Resources(
        {
            name: resource
            for name, resource in (resources or {}).items()
            if name not in added or resource.raw != added[name].raw
        }
    )


def same_machine(kind, count):
    """Give all rules of a kind the threads and resources that a profile sets for the plain name, unless it names them."""
    chosen = workflow.resource_settings
    for given in (chosen.overwrite_threads, chosen.overwrite_resources):
        for number in range(1, count if kind in given else 0):
            given.setdefault(numbered(kind, number), given[kind])


keep_profile()
same_machine("language_model", len(TRAINED))
same_machine("activations", len(STUDY.hook_groups()))
same_machine("sweep", len(TOGETHER))
if STREAMED:
    same_machine("statistics", len(statistics_groups()))
