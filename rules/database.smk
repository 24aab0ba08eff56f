"""Features in MongoDB."""


rule database:
    input:
        features="<results>/features/{dictionary}/{run}/features.parquet",
        samples="<results>/features/{dictionary}/{run}/samples.parquet",
        dictionary="<results>/dictionaries/{dictionary}/{run}/config.json",
        metrics=lambda wildcards: metrics_files(wildcards.dictionary, wildcards.run),
    output:
        "<results>/database/{dictionary}/{run}.json",
    log:
        "<logs>/database/{dictionary}/{run}.log",
    # The embedded server is reached on the machine that started it alone.
    localrule: STUDY.database.uri == EMBEDDED
    conda:
        "../envs/database.yaml"
    params:
        settings=settings("database"),
        home=folder("database/server"),
        features=subpath(input.features, parent=True),
        metrics=lambda wildcards, input: Path(input.metrics[0]).parent,
        dictionary=subpath(input.dictionary, parent=True),
        loss=lambda wildcards: (
            "" if language_models(wildcards.dictionary) else "--no-loss"
        ),
        code=code("database.py"),
    shell:
        command("database.py")
        + " --log {log} --settings {params.settings:q} --home {params.home}"
        " --features {params.features} --metrics {params.metrics} --dictionary {params.dictionary}"
        " {params.loss}"
        " --out {output}"
