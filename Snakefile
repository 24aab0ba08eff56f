"""From text to figures: how the concepts inside a language model form while it trains."""

from snakemake.utils import min_version

min_version("9.27")

# A study is one file: --configfile replaces the default study and is never merged with it.
if not workflow.config_settings.configfiles:

    configfile: "config.yaml"


include: "rules/common.smk"


report: "report/workflow.rst"


pathvars:
    results=STUDY.root,
    activations=ACTIVATIONS,
    logs=f"{STUDY.root}/logs",


include: "rules/profiles.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/streamed.smk" if STREAMED else "rules/activations.smk"
include: "rules/dictionaries.smk"
include: "rules/evaluation.smk"
include: "rules/interpretation.smk"
include: "rules/database.smk"
include: "rules/figures.smk"


onstart:
    record(STUDY, CONFIG_FILE, Path(workflow.basedir))


# Each stage's folder is a target; the figures are the default.
for stage, files in STAGE_FILES.items():
    for target in spellings(stage):

        rule:
            name:
                target
            default_target: target.endswith("figures/")
            input:
                files,
