"""The study, and what the rules take from it."""

import json
import os
import re
import sys
from pathlib import Path

SCRIPTS = Path(workflow.basedir, "scripts")
sys.path.insert(0, str(SCRIPTS))
# Commands run in this Python, whether its environment was activated or not.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
)

from ontogeny.code_hash import code_hash, hash_of_files
from ontogeny.config.activations import HarvestSettings
from ontogeny.config.comparison import (
    compared_runs,
    dictionaries_drawn,
    dictionaries_of_layers,
    dictionaries_of_two_models,
    sizes_swept,
)
from ontogeny.config.database import EMBEDDED
from ontogeny.config.inputs import model_files
from ontogeny.config.interpretation import WindowSettings, interpreted
from ontogeny.config.load import check_keys_are_unique, load_study
from ontogeny.config.study import SPLITS
from ontogeny.config.superposition import superposition_sweeps
from ontogeny.config.texts import corpus_files, tokenizer_files
from ontogeny.errors import UserError
from ontogeny.ownership import claim, record
from ontogeny.sites import checkpoint_key

CONFIG_FILES = [
    os.path.relpath(file)
    for file in workflow.config_settings.configfiles or ["config.yaml"]
]
CONFIG_FILE = ", ".join(CONFIG_FILES)

try:
    for file in CONFIG_FILES:
        check_keys_are_unique(Path(file))
    STUDY = load_study(config, CONFIG_FILE)
    claim(STUDY, CONFIG_FILE)
except UserError as error:
    raise SystemExit(f"error: {error}")

# Rows, statistics, and shards if there are any: what one mode has made is of no use to the other.
STREAMED = STUDY.activations.mode == "streamed"
ACTIVATIONS = (
    f"{STUDY.root}/activations/streamed" if STREAMED else f"{STUDY.root}/activations"
)

# Planted models, and the hooks at which they are read.
PLANTED = STUDY.planted_hooks()
LANGUAGE_MODELS = [model for model in STUDY.models if model not in PLANTED]

# What settings() takes from: the config with its defaults, and the runs of the sweeps.
SETTINGS = STUDY.model_dump(mode="json")
SETTINGS["runs"] = {
    name: {
        run: settings.model_dump(mode="json")
        for run, settings in STUDY.runs(name).items()
    }
    for name in STUDY.dictionaries
}
SETTINGS["sweeps"] = {
    name: STUDY.sweep(name).model_dump(mode="json") for name in STUDY.dictionaries
}
SETTINGS["sources"] = {
    name: model.model_dump(mode="json", exclude={"checkpoints", "shape"})
    for name, model in STUDY.models.items()
}
SETTINGS["harvest"] = {
    key: SETTINGS["activations"][key] for key in HarvestSettings.model_fields
}
SETTINGS["windows"] = {
    key: SETTINGS["interpretation"][key] for key in WindowSettings.model_fields
}
SETTINGS["interpreted"] = interpreted(STUDY)
SETTINGS["streamed"] = {
    **SETTINGS["harvest"],
    "planted": {model: SETTINGS["models"][model] for model in PLANTED},
}
SETTINGS["rows"] = {
    shard: settings.model_dump(mode="json")
    for split in SPLITS
    for shard, settings in STUDY.rows(split).items()
}
SETTINGS["figures"]["two_phases"]["warmup_steps"] = STUDY.warmup_steps()


def settings(path):
    """Take a part of the study by its path, such as `runs/{dictionary}/{run}`, as JSON for a command."""

    # Not Snakemake's lookup(), which reads all of the settings for each job: half a minute for a thousand shards.
    def part(wildcards):
        found = SETTINGS
        for name in path.split("/"):
            found = found[name.format(**dict(wildcards.items()))]
        return json.dumps(found)

    return part


def command(script):
    """Begin the command of a rule; how it begins is no reason to run it again."""
    return f"python {os.path.relpath(SCRIPTS / script)} --study {STUDY.root}/study.json"


def launched(script):
    """Begin the command of a rule that several processes may share, as many as its resources say."""
    launch = (
        f"python {os.path.relpath(SCRIPTS / 'launch.py')} --nodes {{resources.nodes}} --threads {{threads}}"
        " --processes {resources.processes} --data-ranks {resources.data_ranks}"
        " --seconds-to-save {resources.seconds_to_save} --sites {params.sites} -- "
    )
    return launch + command(script).removeprefix("python ")


def code(script, *modules):
    """Hash the script of a rule with every project module behind it."""
    return code_hash(SCRIPTS, script, *modules)


def numbered(rule, number):
    """Name one of several rules of a kind; the first bears the plain name, which profiles know."""
    return f"{rule}_{number + 1}" if number else rule


def one_of(names):
    """Constrain a wildcard to names; to nothing where there is none."""
    return "|".join(map(re.escape, names)) or "(?!)"


def folder(path):
    """Name a folder of the study for a rule's params."""
    found = ACTIVATIONS if path == "activations" else f"{STUDY.root}/{path}"
    return lambda wildcards: found


def own_seed(model):
    """Seed a trained model: by its own seed, or else by the study's."""
    seed = STUDY.models[model].seed
    return STUDY.seed if seed is None else seed


def checkpoint_file(checkpoint):
    return f"{STUDY.root}/models/{checkpoint}/checkpoint.json"


def checkpoint_files(sites):
    return [
        checkpoint_file(checkpoint)
        for checkpoint in dict.fromkeys(site.checkpoint for site in sites)
    ]


def directions_files(model, hooks):
    """Name where the features of a planted model point, one file a hook."""
    return [
        f"{STUDY.root}/models/{model}/directions/{hook}.safetensors"
        for hook in dict.fromkeys(hooks)
    ]


def truth_files(model):
    truth = f"{STUDY.root}/models/{model}/truth.csv"
    return [truth, *directions_files(model, PLANTED[model])]


def all_models():
    """Name what is kept of every model: its checkpoints, or the truth of a planted one."""
    sites = [site for site in STUDY.all_sites() if site.model not in PLANTED]
    truths = [file for model in PLANTED for file in truth_files(model)]
    return checkpoint_files(sites) + truths


def checkpoint_sources(model, step):
    """Name the files of a checkpoint in a local folder; the hub's are no files yet."""
    local = STUDY.models[model].source == "local"
    return model_files(STUDY.models[model], step) if local else []


def gguf_files(settings):
    """Name the GGUF file of a model or a tokenizer, if it has one: the environment of a job may lack its package."""
    if settings.source != "gguf":
        return []
    file, here = settings.file(), Path.cwd()
    # Relative where it can be: a project that moves with its environment has the same input as before.
    return [str(file.relative_to(here) if file.is_relative_to(here) else file)]


STREAMED_FILE = f"{ACTIVATIONS}/streamed.json"


def shard_files(sites, split):
    """Name what the activations of `split` at every site are read from: shards, or all that models need to make them."""
    if STREAMED:
        read = [site for site in sites if site.model not in PLANTED]
        tokens = [f"{STUDY.root}/tokens/{split}.h5"] if read else []
        return [STREAMED_FILE, *checkpoint_files(read), *tokens, *rows_files(split)]
    return [
        f"{ACTIVATIONS}/{site.key}/{shard}.h5"
        for site in sites
        for shard in STUDY.shards(split)
    ]


def rows_files(split):
    return [f"{ACTIVATIONS}/rows/{shard}.h5" for shard in STUDY.shards(split)]


def statistics_files(sites):
    return [f"{ACTIVATIONS}/{site.key}/statistics.json" for site in sites]


def statistics_groups():
    """Group the checkpoints of a streamed study by the hooks whose statistics are measured in one pass."""
    planted = [
        (hooks, [checkpoint_key(model, step) for step in steps_of(model)])
        for model, hooks in PLANTED.items()
    ]
    return [*STUDY.hook_groups().items(), *planted]


def steps_of(model):
    """List the checkpoints of a model that the study reads."""
    return sorted({site.step for site in STUDY.all_sites() if site.model == model})


def models_of(dictionary):
    """Name the models that a dictionary spans, in order."""
    return dict.fromkeys(site.model for site in STUDY.sites(dictionary))


def language_models(dictionary):
    """Name the models of a dictionary that have a loss: all but planted ones."""
    return [model for model in models_of(dictionary) if model not in PLANTED]


def metrics_files(dictionary, run):
    """Name the metrics of a run: reconstruction, and the loss of each language model that it spans."""
    models = language_models(dictionary)
    names = ["reconstruction", *(f"nll-{model}" for model in models)]
    return [f"{STUDY.root}/metrics/{dictionary}/{run}/{name}.csv" for name in names]


def recovery_files(dictionary, run):
    """Name the comparisons of a run with what was planted, one for each planted model that it spans."""
    return [
        f"{STUDY.root}/metrics/{dictionary}/{run}/recovery-{model}.csv"
        for model in models_of(dictionary)
        if model in PLANTED
    ]


def geometry_file(table, dictionary="{dictionary}", run="{run}"):
    """Name a table of the geometry of a run over several sites."""
    return f"{STUDY.root}/metrics/{dictionary}/{run}/{table}.csv"


def task_tables(kind, dictionary, run):
    """Name the tables of tasks of a run, and those of one kind beside them, of each language model that it spans."""
    return [
        f"{STUDY.root}/metrics/{dictionary}/{run}/{name}-{model}.csv"
        for name in ("tasks", kind)
        for model in language_models(dictionary)
    ]


def besides(dictionary, run):
    """Name the tables that the featured run alone has, by the option under which the database takes them."""
    if (dictionary, run) != STUDY.featured_run():
        return {}
    features = f"{STUDY.root}/features/{dictionary}/{run}"
    metrics = f"{STUDY.root}/metrics/{dictionary}/{run}"
    names = STUDY.figure_names()
    tables = {
        "types": [f"{metrics}/feature_types.parquet"] * ("feature_types" in names),
        "interpretations": [f"{features}/interpretations.parquet"]
        * bool(STUDY.interpretation.endpoint),
        "attributions": [
            f"{metrics}/attributions-{model}.parquet"
            for model in language_models(dictionary)
            if "attribution" in names
        ],
    }
    return {option: files for option, files in tables.items() if files}


def matching_file(table, dictionary="{other}", run="{other_run}"):
    """Name a table that compares the featured run with another."""
    shown = "/".join(STUDY.featured_run())
    return f"{STUDY.root}/metrics/{shown}/matching/{dictionary}/{run}/{table}.csv"


def losses_of_runs(*dictionaries):
    """Name the losses of every run of the dictionaries named, of each language model that it spans."""
    return [
        file
        for dictionary in dictionaries
        for run in STUDY.runs(dictionary)
        for file in metrics_files(dictionary, run)[1:]
    ]


def of_runs(pattern, *dictionaries):
    """Fill `{dictionary}` and `{run}` of a pattern with every run of the dictionaries named, or of all."""
    return [
        pattern.format(dictionary=dictionary, run=run)
        for dictionary in dictionaries or STUDY.dictionaries
        for run in STUDY.runs(dictionary)
    ]


def run_files(dictionary, run):
    """Name the files of a run."""
    files = ("crosscoder.safetensors", "config.json", "training.csv", "density.csv")
    return [f"<results>/dictionaries/{dictionary}/{run}/{file}" for file in files]


def spellings(stage):
    """Name the target of a stage with and without the slash that shells add."""
    return f"{STUDY.root}/{stage}/", f"{STUDY.root}/{stage}"


def figure(name, category):
    """Name the files of a figure; the picture goes into the report."""
    stem = f"{STUDY.root}/figures/{name}"
    picture = report(
        f"{stem}.png",
        caption=f"../report/{name}.rst",
        category=category,
        labels={"figure": name},
    )
    return [f"{stem}.pdf", picture, f"{stem}.csv"]


wildcard_constraints:
    split="train|heldout",
    step=r"\d+",
    model=one_of(STUDY.models),
    dictionary=one_of(STUDY.dictionaries),
    run=r"latents[^/]+",
    number=r"\d{5}",


# Dictionaries whose sites can be compared with each other, and the tables that do so.
OVER_SITES = [name for name in STUDY.dictionaries if len(STUDY.sites(name)) > 1]
# Dictionaries whose runs have a job each, and those of which one job trains all runs of a seed.
APART, TOGETHER = (
    [name for name in STUDY.dictionaries if STUDY.dictionaries[name].sweep == sweep]
    for sweep in ("apart", "together")
)
# Those of which one job measures all runs, with the planted model and the hook of each.
SUPERPOSED = superposition_sweeps(STUDY)
OF_TWO_MODELS = dictionaries_of_two_models(STUDY)
OF_LAYERS = dictionaries_of_layers(STUDY)
MATCHING_TABLES = ("pairs", "agreement")
GEOMETRY_TABLES = ("rotation", "classes", "persistence", "dimensionality")

TRAINED = [name for name, model in STUDY.models.items() if model.source == "train"]
STARTS = {
    STUDY.models[name].start.model for name in TRAINED if STUDY.models[name].start
}
FETCHED = [
    name
    for name, model in STUDY.models.items()
    if model.source in ("local", "hub", "gguf")
]
