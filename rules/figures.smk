"""One rule per figure, each drawn from tables alone, and the page that shows them."""

FEATURED, FEATURED_RUN = STUDY.featured_run()

# What each figure is drawn from, and where it stands in the report.
RECONSTRUCTION = "<results>/metrics/{dictionary}/{run}/reconstruction.csv"
FEATURES = f"<results>/features/{FEATURED}/{FEATURED_RUN}/features.parquet"
NGRAMS = [f"<results>/metrics/ngram-{model}.csv" for model in language_models(FEATURED)]
PROBES = [f"<results>/metrics/{FEATURED}/{FEATURED_RUN}/probes.csv"]
TYPES = besides(FEATURED, FEATURED_RUN).get("types", [])
# A language model's ratings of the same features, where the study asks for them.
INTERPRETATIONS = besides(FEATURED, FEATURED_RUN).get("interpretations", [])
SUPERPOSITION = [
    f"<results>/metrics/{dictionary}/superposition.csv" for dictionary in SUPERPOSED
]
FIGURES = {
    "superposition": ("Known truth", SUPERPOSITION),
    "pareto": (
        "Sparsity and reconstruction",
        of_runs(RECONSTRUCTION, *dictionaries_drawn(STUDY)),
    ),
    "sweep": (
        "Sparsity and reconstruction",
        of_runs(RECONSTRUCTION, *sizes_swept(STUDY)) if sizes_swept(STUDY) else [],
    ),
    "reconstruction": (
        "Reconstruction over training",
        of_runs(RECONSTRUCTION, FEATURED) + losses_of_runs(FEATURED),
    ),
    "density": (
        "Features over training",
        [f"<results>/dictionaries/{FEATURED}/{FEATURED_RUN}/density.csv"],
    ),
    "decoder_norms": (
        "Features over training",
        [FEATURES],
    ),
    "evolution_overview": (
        "Features over training",
        [
            FEATURES,
            geometry_file("rotation", FEATURED, FEATURED_RUN),
            geometry_file("persistence", FEATURED, FEATURED_RUN),
        ],
    ),
    "feature_classes": (
        "Features over training",
        [FEATURES, geometry_file("classes", FEATURED, FEATURED_RUN)],
    ),
    "model_diff": (
        "Models and layers",
        of_runs("<results>/metrics/{dictionary}/{run}/model_diff.csv", *OF_TWO_MODELS)
        + losses_of_runs(*OF_TWO_MODELS),
    ),
    "layers": (
        "Models and layers",
        [FEATURES] + of_runs(RECONSTRUCTION, *OF_LAYERS) + losses_of_runs(*OF_LAYERS),
    ),
    "robustness": (
        "Robustness",
        [
            matching_file(table, *other)
            for table in MATCHING_TABLES
            for other in compared_runs(STUDY)
        ],
    ),
    "language_model": (
        "Language model",
        [
            f"{STUDY.root}/models/{model}/training.csv"
            for model in TRAINED
            if STUDY.models[model].training.steps
        ]
        + list(rules.tokenizer.output),
    ),
    "two_phases": (
        "Language model",
        NGRAMS + [geometry_file("dimensionality", FEATURED, FEATURED_RUN)],
    ),
    "norm_as_strength": ("Features over training", PROBES),
    "attribution": (
        "Features in tasks",
        task_tables("attribution", FEATURED, FEATURED_RUN),
    ),
    "necessity_sufficiency": (
        "Features in tasks",
        task_tables("ablations", FEATURED, FEATURED_RUN),
    ),
    "feature_types": ("Features over training", [FEATURES, *TYPES]),
    "complexity": (
        "Features over training",
        [FEATURES, *TYPES, *INTERPRETATIONS],
    ),
}

for name in STUDY.figure_names():

    rule:
        name:
            f"{name}_figure"
        input:
            FIGURES[name][1],
        output:
            figure(name, FIGURES[name][0]),
        log:
            f"<logs>/figures/{name}.log",
        localrule: True
        conda:
            "../envs/cpu.yaml"
        params:
            figure=name,
            settings=settings(f"figures/{name}"),
            style=settings("figures/style"),
            out=subpath(output[0], strip_suffix=".pdf"),
            code=code("figure.py", f"ontogeny.figures.{name}"),
        shell:
            command("figure.py")
            + " --log {log} --figure {params.figure} --settings {params.settings:q}"
            " --style {params.style:q} --tables {input} --out {params.out}"


rule gallery:
    input:
        [
            f"<results>/figures/{name}.{kind}"
            for name in STUDY.figure_names()
            for kind in ("pdf", "png", "csv")
        ],
    output:
        "<results>/figures/index.html",
    log:
        "<logs>/figures/gallery.log",
    localrule: True
    conda:
        "../envs/cpu.yaml"
    params:
        folder=folder("figures"),
        figures=STUDY.figure_names(),
        code=code("gallery.py"),
    shell:
        command("gallery.py")
        + " --log {log} --figures {params.figures} --folder {params.folder} --out {output}"


# Snakemake removes what a job makes before the job begins. If the job then fails, what was made of the old files looks
# up to date, and nothing would ask for the new ones: so the targets below ask for every file that is small. Shards and
# checkpoints, which are large, may be deleted once they were read.
MADE_BEFORE = [
    *rules.corpus.output,
    *rules.tokenizer.output,
    "<results>/tokens/train.h5",
    *(
        f"{STUDY.root}/models/{model}/training.csv"
        for model in TRAINED
        if model in {site.model for site in STUDY.all_sites()} | STARTS
    ),
    *rows_files("train"),
]
RUNS = MADE_BEFORE + of_runs(rules.dictionary.output[0])
TABLES_OF_FIGURES = [
    table for name in STUDY.figure_names() for table in FIGURES[name][1]
]

STAGE_FILES = {
    "corpus": rules.corpus.output,
    "tokenizer": rules.tokenizer.output,
    "tokens": expand(rules.tokens.output, split=SPLITS),
    "models": all_models(),
    "activations": statistics_files(STUDY.all_sites())
    + shard_files(STUDY.all_sites(), "heldout"),
    "dictionaries": RUNS,
    "metrics": RUNS
    + [
        file
        for name in STUDY.dictionaries
        if name not in SUPERPOSED
        for run in STUDY.runs(name)
        for file in metrics_files(name, run) + recovery_files(name, run)
    ]
    + SUPERPOSITION
    + [
        geometry_file(table, name, run)
        for name in OVER_SITES
        for run in STUDY.runs(name)
        for table in GEOMETRY_TABLES
    ]
    + NGRAMS
    + PROBES
    + [
        table
        for name in ("attribution", "necessity_sufficiency", "robustness", "model_diff")
        if name in STUDY.figure_names()
        for table in FIGURES[name][1]
    ]
    + TYPES,
    "features": RUNS
    + of_runs(rules.features.output[0])
    + of_runs(rules.decoders.output[0])
    + INTERPRETATIONS,
    "database": RUNS
    + of_runs(rules.features.output[0])
    + of_runs(rules.database.output[0]),
    "browser": RUNS + TABLES_OF_FIGURES + rules.browser.input + rules.browser.output,
    "figures": RUNS + TABLES_OF_FIGURES + rules.gallery.input + rules.gallery.output,
}
