"""Features in MongoDB."""


rule database:
    input:
        features="<results>/features/{dictionary}/{run}/features.parquet",
        samples="<results>/features/{dictionary}/{run}/samples.parquet",
        decoders="<results>/features/{dictionary}/{run}/decoders.parquet",
        besides=lambda wildcards: sum(
            besides(wildcards.dictionary, wildcards.run).values(), []
        ),
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
        besides=lambda wildcards: [
            word
            for option, files in besides(wildcards.dictionary, wildcards.run).items()
            for word in (f"--{option}", *files)
        ],
        code=code("database.py"),
    shell:
        command("database.py")
        + " --log {log} --settings {params.settings:q} --home {params.home}"
        " --features {params.features} --metrics {params.metrics} --dictionary {params.dictionary}"
        " --decoders {input.decoders} {params.besides} {params.loss}"
        " --out {output}"


rule browser:
    input:
        receipts=[
            f"{STUDY.root}/database/{dictionary}/{run}.json"
            for dictionary, run in STUDY.exported_runs()
        ],
        figures=[
            f"<results>/figures/{name}.{kind}"
            for name in STUDY.figure_names()
            for kind in ("pdf", "png", "csv")
        ],
    output:
        "<results>/browser/index.html",
    log:
        "<logs>/browser.log",
    localrule: STUDY.database.uri == EMBEDDED
    conda:
        "../envs/database.yaml"
    params:
        settings=settings("database"),
        home=folder("database/server"),
        name=STUDY.study,
        runs=["/".join(run) for run in STUDY.exported_runs()],
        figures=folder("figures"),
        names=STUDY.figure_names(),
        out=subpath(output[0], parent=True),
        code=code("browser.py"),
        pages=hash_of_files(
            *(
                SCRIPTS / "ontogeny" / "browser" / name
                for name in ("templates", "static")
            )
        ),
    shell:
        command("browser.py")
        + " --log {log} --settings {params.settings:q} --home {params.home} --name {params.name}"
        " --runs {params.runs} --figures {params.figures} --names {params.names} --out {params.out}"
