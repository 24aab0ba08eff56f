"""One rule per figure, each drawn from tables alone, and the page that shows them."""

FEATURED, FEATURED_RUN = STUDY.featured_run()


rule pareto:
    input:
        of_runs("<results>/metrics/{dictionary}/{run}/reconstruction.csv"),
    output:
        figure("pareto", "Sparsity and reconstruction"),
    log:
        "<logs>/figures/pareto.log",
    conda:
        "../envs/cpu.yaml"
    params:
        settings=settings("figures/pareto"),
        style=settings("figures/style"),
        out=subpath(output[0], strip_suffix=".pdf"),
        code=code("figure.py", "ontogeny.figures.pareto"),
    shell:
        draw("pareto")


rule reconstruction_figure:
    input:
        of_runs("<results>/metrics/{dictionary}/{run}/reconstruction.csv", FEATURED),
        [
            file
            for run in STUDY.runs(FEATURED)
            for file in metrics_files(FEATURED, run)[1:]
        ],
    output:
        figure("reconstruction", "Reconstruction over training"),
    log:
        "<logs>/figures/reconstruction.log",
    conda:
        "../envs/cpu.yaml"
    params:
        settings=settings("figures/reconstruction"),
        style=settings("figures/style"),
        out=subpath(output[0], strip_suffix=".pdf"),
        code=code("figure.py", "ontogeny.figures.reconstruction"),
    shell:
        draw("reconstruction")


rule decoder_norms:
    input:
        f"<results>/features/{FEATURED}/{FEATURED_RUN}/features.parquet",
    output:
        figure("decoder_norms", "Features over training"),
    log:
        "<logs>/figures/decoder_norms.log",
    conda:
        "../envs/cpu.yaml"
    params:
        settings=settings("figures/decoder_norms"),
        style=settings("figures/style"),
        out=subpath(output[0], strip_suffix=".pdf"),
        code=code("figure.py", "ontogeny.figures.decoder_norms"),
    shell:
        draw("decoder_norms")


rule language_model_figure:
    input:
        [f"<results>/models/{model}/training.csv" for model in TRAINED],
        rules.tokenizer.output,
    output:
        figure("language_model", "Language model"),
    log:
        "<logs>/figures/language_model.log",
    conda:
        "../envs/cpu.yaml"
    params:
        settings=settings("figures/language_model"),
        style=settings("figures/style"),
        out=subpath(output[0], strip_suffix=".pdf"),
        code=code("figure.py", "ontogeny.figures.language_model"),
    shell:
        draw("language_model")


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
    conda:
        "../envs/cpu.yaml"
    params:
        folder=folder("figures"),
        figures=STUDY.figure_names(),
        code=code("gallery.py"),
    shell:
        command("gallery.py")
        + " --log {log} --figures {params.figures} --folder {params.folder} --out {output}"


STAGE_FILES = {
    "corpus": rules.corpus.output,
    "tokenizer": rules.tokenizer.output,
    "tokens": expand(rules.tokens.output, split=SPLITS),
    "models": all_models(),
    "activations": statistics_files(STUDY.all_sites())
    + shard_files(STUDY.all_sites(), "heldout"),
    "dictionaries": of_runs(rules.dictionary.output[0]),
    "metrics": [
        file
        for name in STUDY.dictionaries
        for run in STUDY.runs(name)
        for file in metrics_files(name, run)
    ],
    "features": of_runs(rules.features.output[0]),
    "database": of_runs(rules.database.output[0]),
    "figures": rules.gallery.output,
}
