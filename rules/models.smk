"""Checkpoints of models trained here and of models that exist, and what is known of planted ones."""

for number, model in enumerate(TRAINED):
    start = STUDY.models[model].start

    rule:
        name:
            numbered("language_model", number)
        input:
            train="<results>/tokens/train.h5",
            heldout="<results>/tokens/heldout.h5",
            tokenizer=rules.tokenizer.output,
            start=(
                [checkpoint_file(checkpoint_key(start.model, start.step))]
                if start
                else []
            ),
        output:
            [
                checkpoint_file(checkpoint_key(model, step))
                for step in STUDY.models[model].checkpoints
            ],
            training=f"<results>/models/{model}/training.csv",
        log:
            f"<logs>/language_model/{model}.log",
        conda:
            "../envs/gpu.yaml"
        threads: 4
        params:
            settings=settings(f"models/{model}"),
            seed=own_seed(model),
            start=(
                f"--start {STUDY.root}/models/{checkpoint_key(start.model, start.step)}"
                if start
                else ""
            ),
            out=subpath(output.training, parent=True),
            code=code("language_model.py"),
        shell:
            command("language_model.py")
            + " --log {log} --threads {threads} --settings {params.settings:q}"
            " --seed {params.seed} --tokens {input.train} --heldout {input.heldout}"
            " --tokenizer {input.tokenizer} {params.start} --out {params.out}"


rule checkpoint:
    input:
        files=lambda wildcards: checkpoint_sources(wildcards.model, int(wildcards.step)),
        file=lambda wildcards: gguf_files(STUDY.models[wildcards.model]),
        tokenizer=rules.tokenizer.output,
    output:
        "<results>/models/{model}/step{step}/checkpoint.json",
    log:
        "<logs>/checkpoint/{model}/step{step}.log",
    wildcard_constraints:
        model=one_of(FETCHED),
    conda:
        "../envs/gpu.yaml"
    params:
        # Where the model is, and not which steps of it are read: one more brings in one more.
        settings=settings("sources/{model}"),
        code=code("checkpoint.py"),
    shell:
        command("checkpoint.py")
        + " --log {log} --settings {params.settings:q} --step {wildcards.step} --file {input.file:q}"
        " --tokenizer {input.tokenizer} --out {output}"


rule truth:
    output:
        "<results>/models/{model}/truth.csv",
    log:
        "<logs>/truth/{model}.log",
    wildcard_constraints:
        model=one_of(PLANTED),
    localrule: True
    conda:
        "../envs/gpu.yaml"
    params:
        settings=settings("models/{model}"),
        code=code("truth.py"),
    shell:
        command("truth.py")
        + " --log {log} --settings {params.settings:q} --out {output}"


rule directions:
    output:
        "<results>/models/{model}/directions/{hook}.safetensors",
    log:
        "<logs>/directions/{model}/{hook}.log",
    wildcard_constraints:
        model=one_of(PLANTED),
        hook=r"[^/]+",
    localrule: True
    conda:
        "../envs/gpu.yaml"
    params:
        settings=settings("models/{model}"),
        code=code("truth.py"),
    shell:
        command("truth.py")
        + " --log {log} --settings {params.settings:q} --hook {wildcards.hook} --out {output}"
