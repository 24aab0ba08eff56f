"""How well dictionaries reconstruct, what that does to the model, and what each feature does."""


rule reconstruction:
    input:
        dictionary="<results>/dictionaries/{dictionary}/{run}/crosscoder.safetensors",
        shards=lambda wildcards: shard_files(
            STUDY.sites(wildcards.dictionary), "heldout"
        ),
    output:
        "<results>/metrics/{dictionary}/{run}/reconstruction.csv",
    log:
        "<logs>/reconstruction/{dictionary}/{run}.log",
    conda:
        "../envs/gpu.yaml"
    params:
        dictionary=subpath(input.dictionary, parent=True),
        activations=folder("activations"),
        shards=list(STUDY.shards("heldout")),
        code=code("reconstruction.py"),
    shell:
        command("reconstruction.py")
        + " --log {log} --threads {threads} --dictionary {params.dictionary}"
        " --activations {params.activations} --shards {params.shards} --out {output}"


rule losses:
    input:
        dictionary="<results>/dictionaries/{dictionary}/{run}/crosscoder.safetensors",
        checkpoints=lambda wildcards: checkpoint_files(
            STUDY.sites(wildcards.dictionary)
        ),
        statistics=lambda wildcards: statistics_files(STUDY.sites(wildcards.dictionary)),
        tokens="<results>/tokens/heldout.h5",
    output:
        "<results>/metrics/{dictionary}/{run}/losses-{model}/part-{part}.csv",
    log:
        "<logs>/losses/{dictionary}/{run}-{model}/part-{part}.log",
    wildcard_constraints:
        model=one_of(LANGUAGE_MODELS),
        part=r"\d+",
    conda:
        "../envs/gpu.yaml"
    params:
        settings=settings("evaluation/nll"),
        models=folder("models"),
        dictionary=subpath(input.dictionary, parent=True),
        activations=folder("activations"),
        first="--keep-first-position" if STUDY.activations.keep_first_position else "",
        code=code("losses.py"),
    shell:
        command("losses.py")
        + " --log {log} --threads {threads} --settings {params.settings:q} --part {wildcards.part} {params.first}"
        " --dictionary {params.dictionary} --model {wildcards.model} --models {params.models}"
        " --tokens {input.tokens} --activations {params.activations} --out {output}"


rule nll:
    input:
        dictionary="<results>/dictionaries/{dictionary}/{run}/crosscoder.safetensors",
        losses=expand(
            "<results>/metrics/{{dictionary}}/{{run}}/losses-{{model}}/part-{part}.csv",
            part=range(STUDY.evaluation.nll.parts),
        ),
    output:
        "<results>/metrics/{dictionary}/{run}/nll-{model}.csv",
    log:
        "<logs>/nll/{dictionary}/{run}-{model}.log",
    wildcard_constraints:
        model=one_of(LANGUAGE_MODELS),
    localrule: True
    conda:
        "../envs/gpu.yaml"
    params:
        dictionary=subpath(input.dictionary, parent=True),
        code=code("nll.py"),
    shell:
        command("nll.py")
        + " --log {log} --dictionary {params.dictionary} --losses {input.losses} --out {output}"


rule recovery:
    input:
        dictionary="<results>/dictionaries/{dictionary}/{run}/crosscoder.safetensors",
        shards=lambda wildcards: shard_files(
            STUDY.sites(wildcards.dictionary), "heldout"
        ),
        directions=lambda wildcards: directions_files(
            wildcards.model,
            [
                site.hook
                for site in STUDY.sites(wildcards.dictionary)
                if site.model == wildcards.model
            ],
        ),
    output:
        "<results>/metrics/{dictionary}/{run}/recovery-{model}.csv",
    log:
        "<logs>/recovery/{dictionary}/{run}-{model}.log",
    wildcard_constraints:
        model=one_of(PLANTED),
    conda:
        "../envs/gpu.yaml"
    params:
        threshold=settings("evaluation/features/emergence_threshold"),
        dictionary=subpath(input.dictionary, parent=True),
        directions=lambda wildcards, input: Path(input.directions[0]).parent,
        activations=folder("activations"),
        shards=list(STUDY.shards("heldout")),
        code=code("recovery.py"),
    shell:
        command("recovery.py")
        + " --log {log} --threads {threads} --threshold {params.threshold}"
        " --dictionary {params.dictionary} --model {wildcards.model} --directions {params.directions}"
        " --activations {params.activations} --shards {params.shards} --out {output}"


rule superposition:
    input:
        dictionaries=lambda wildcards: of_runs(
            rules.dictionary.output[0], wildcards.dictionary
        ),
        shards=lambda wildcards: shard_files(
            STUDY.sites(wildcards.dictionary), "heldout"
        ),
        directions=lambda wildcards: directions_files(
            SUPERPOSED[wildcards.dictionary][0], SUPERPOSED[wildcards.dictionary][1:]
        ),
    output:
        "<results>/metrics/{dictionary}/superposition.csv",
    log:
        "<logs>/superposition/{dictionary}.log",
    wildcard_constraints:
        dictionary=one_of(SUPERPOSED),
    conda:
        "../envs/gpu.yaml"
    threads: 8
    params:
        dictionary=f"{STUDY.root}/dictionaries/{{dictionary}}",
        runs=lambda wildcards: list(STUDY.runs(wildcards.dictionary)),
        model=lambda wildcards: SUPERPOSED[wildcards.dictionary][0],
        hook=lambda wildcards: SUPERPOSED[wildcards.dictionary][1],
        activations=folder("activations"),
        shards=list(STUDY.shards("heldout")),
        code=code("superposition.py"),
    shell:
        command("superposition.py")
        + " --log {log} --threads {threads} --dictionary {params.dictionary} --runs {params.runs}"
        " --model {params.model} --hook {params.hook} --directions {input.directions}"
        " --activations {params.activations} --shards {params.shards} --out {output}"


rule features:
    input:
        dictionary="<results>/dictionaries/{dictionary}/{run}/crosscoder.safetensors",
        shards=lambda wildcards: shard_files(
            STUDY.sites(wildcards.dictionary), "heldout"
        ),
        rows=rows_files("heldout"),
        tokens="<results>/tokens/heldout.h5",
        tokenizer=rules.tokenizer.output,
    output:
        "<results>/features/{dictionary}/{run}/features.parquet",
        "<results>/features/{dictionary}/{run}/samples.parquet",
    log:
        "<logs>/features/{dictionary}/{run}.log",
    conda:
        "../envs/gpu.yaml"
    params:
        settings=settings("evaluation/features"),
        dictionary=subpath(input.dictionary, parent=True),
        activations=folder("activations"),
        shards=list(STUDY.shards("heldout")),
        out=subpath(output[0], parent=True),
        code=code("features.py"),
    shell:
        command("features.py")
        + " --log {log} --threads {threads} --settings {params.settings:q}"
        " --dictionary {params.dictionary} --activations {params.activations} --shards {params.shards}"
        " --tokens {input.tokens} --tokenizer {input.tokenizer} --out {params.out}"


rule geometry:
    input:
        dictionary="<results>/dictionaries/{dictionary}/{run}/crosscoder.safetensors",
        features="<results>/features/{dictionary}/{run}/features.parquet",
    output:
        [geometry_file(table) for table in GEOMETRY_TABLES],
    log:
        "<logs>/geometry/{dictionary}/{run}.log",
    wildcard_constraints:
        dictionary=one_of(OVER_SITES),
    conda:
        "../envs/gpu.yaml"
    params:
        dictionary=subpath(input.dictionary, parent=True),
        out=subpath(output[0], parent=True),
        code=code("geometry.py"),
    shell:
        command("geometry.py")
        + " --log {log} --threads {threads} --dictionary {params.dictionary} --features {input.features}"
        " --out {params.out}"


rule decoders:
    input:
        dictionary="<results>/dictionaries/{dictionary}/{run}/crosscoder.safetensors",
        features="<results>/features/{dictionary}/{run}/features.parquet",
        checkpoints=lambda wildcards: checkpoint_files(
            site
            for site in STUDY.sites(wildcards.dictionary)
            if site.model not in PLANTED
        ),
        tokenizer=rules.tokenizer.output,
    output:
        "<results>/features/{dictionary}/{run}/decoders.parquet",
    log:
        "<logs>/decoders/{dictionary}/{run}.log",
    conda:
        "../envs/gpu.yaml"
    params:
        dictionary=subpath(input.dictionary, parent=True),
        models=lambda wildcards: (
            f"--models {STUDY.root}/models"
            if language_models(wildcards.dictionary)
            else ""
        ),
        code=code("decoders.py"),
    shell:
        command("decoders.py")
        + " --log {log} --threads {threads} --dictionary {params.dictionary} --features {input.features}"
        " {params.models} --tokenizer {input.tokenizer} --out {output}"


rule ngram:
    input:
        checkpoints=lambda wildcards: [
            checkpoint_file(checkpoint_key(wildcards.model, step))
            for step in steps_of(wildcards.model)
        ],
        train="<results>/tokens/train.h5",
        heldout="<results>/tokens/heldout.h5",
    output:
        "<results>/metrics/ngram-{model}.csv",
    log:
        "<logs>/ngram/{model}.log",
    wildcard_constraints:
        model=one_of(LANGUAGE_MODELS),
    conda:
        "../envs/gpu.yaml"
    params:
        settings=settings("evaluation/ngram"),
        steps=lambda wildcards: steps_of(wildcards.model),
        models=folder("models"),
        code=code("ngram.py"),
    shell:
        command("ngram.py")
        + " --log {log} --threads {threads} --settings {params.settings:q} --model {wildcards.model}"
        " --steps {params.steps} --models {params.models} --tokens {input.train} --heldout {input.heldout}"
        " --out {output}"


rule probes:
    input:
        dictionary="<results>/dictionaries/{dictionary}/{run}/crosscoder.safetensors",
        features="<results>/features/{dictionary}/{run}/features.parquet",
        train=lambda wildcards: shard_files(STUDY.sites(wildcards.dictionary), "train"),
        heldout=lambda wildcards: shard_files(
            STUDY.sites(wildcards.dictionary), "heldout"
        ),
    output:
        "<results>/metrics/{dictionary}/{run}/probes.csv",
    log:
        "<logs>/probes/{dictionary}/{run}.log",
    conda:
        "../envs/gpu.yaml"
    params:
        settings=settings("evaluation/probes"),
        dictionary=subpath(input.dictionary, parent=True),
        activations=folder("activations"),
        train=list(STUDY.shards("train")),
        heldout=list(STUDY.shards("heldout")),
        code=code("probes.py"),
    shell:
        command("probes.py")
        + " --log {log} --threads {threads} --settings {params.settings:q}"
        " --dictionary {params.dictionary} --features {input.features} --activations {params.activations}"
        " --train {params.train} --heldout {params.heldout} --out {output}"


rule attribution:
    input:
        dictionary="<results>/dictionaries/{dictionary}/{run}/crosscoder.safetensors",
        checkpoints=lambda wildcards: checkpoint_files(
            STUDY.sites(wildcards.dictionary)
        ),
        tokenizer=rules.tokenizer.output,
    output:
        "<results>/metrics/{dictionary}/{run}/tasks-{model}.csv",
        "<results>/metrics/{dictionary}/{run}/attribution-{model}.csv",
        "<results>/metrics/{dictionary}/{run}/ablations-{model}.csv",
        "<results>/metrics/{dictionary}/{run}/attributions-{model}.parquet",
    log:
        "<logs>/attribution/{dictionary}/{run}-{model}.log",
    wildcard_constraints:
        model=one_of(LANGUAGE_MODELS),
    conda:
        "../envs/gpu.yaml"
    threads: 2
    params:
        settings=settings("evaluation/tasks"),
        models=folder("models"),
        dictionary=subpath(input.dictionary, parent=True),
        context=STUDY.tokens.context_length,
        first="--keep-first-position" if STUDY.activations.keep_first_position else "",
        out=subpath(output[0], parent=True),
        code=code("attribution.py"),
    shell:
        command("attribution.py")
        + " --log {log} --threads {threads} --settings {params.settings:q} {params.first}"
        " --dictionary {params.dictionary} --model {wildcards.model} --models {params.models}"
        " --tokenizer {input.tokenizer} --context-length {params.context} --out {params.out}"


rule feature_types:
    input:
        dictionary="<results>/dictionaries/{dictionary}/{run}/crosscoder.safetensors",
        features="<results>/features/{dictionary}/{run}/features.parquet",
        samples="<results>/features/{dictionary}/{run}/samples.parquet",
        checkpoints=lambda wildcards: checkpoint_files(
            STUDY.sites(wildcards.dictionary)
        ),
        shards=lambda wildcards: shard_files(
            STUDY.sites(wildcards.dictionary), "heldout"
        ),
        rows=rows_files("heldout"),
        tokens="<results>/tokens/heldout.h5",
    output:
        "<results>/metrics/{dictionary}/{run}/feature_types.parquet",
    log:
        "<logs>/feature_types/{dictionary}/{run}.log",
    conda:
        "../envs/gpu.yaml"
    params:
        settings=settings("evaluation/feature_types"),
        dictionary=subpath(input.dictionary, parent=True),
        features=subpath(input.features, parent=True),
        models=folder("models"),
        activations=folder("activations"),
        shards=list(STUDY.shards("heldout")),
        code=code("feature_types.py"),
    shell:
        command("feature_types.py")
        + " --log {log} --threads {threads} --settings {params.settings:q}"
        " --dictionary {params.dictionary} --features {params.features} --models {params.models}"
        " --activations {params.activations} --shards {params.shards} --tokens {input.tokens} --out {output}"


rule model_diff:
    input:
        dictionary="<results>/dictionaries/{dictionary}/{run}/crosscoder.safetensors",
        features="<results>/features/{dictionary}/{run}/features.parquet",
        shards=lambda wildcards: shard_files(
            STUDY.sites(wildcards.dictionary), "heldout"
        ),
    output:
        "<results>/metrics/{dictionary}/{run}/model_diff.csv",
    log:
        "<logs>/model_diff/{dictionary}/{run}.log",
    wildcard_constraints:
        dictionary=one_of(OF_TWO_MODELS),
    conda:
        "../envs/gpu.yaml"
    params:
        dictionary=subpath(input.dictionary, parent=True),
        activations=folder("activations"),
        shards=list(STUDY.shards("heldout")),
        code=code("model_diff.py"),
    shell:
        command("model_diff.py")
        + " --log {log} --threads {threads} --dictionary {params.dictionary} --features {input.features}"
        " --activations {params.activations} --shards {params.shards} --out {output}"


rule matching:
    input:
        dictionary=f"<results>/dictionaries/{'/'.join(STUDY.featured_run())}/crosscoder.safetensors",
        features=f"<results>/features/{'/'.join(STUDY.featured_run())}/features.parquet",
        other="<results>/dictionaries/{other}/{other_run}/crosscoder.safetensors",
        shards=lambda wildcards: shard_files(STUDY.sites(wildcards.other), "heldout"),
    output:
        [matching_file(table) for table in MATCHING_TABLES],
    log:
        "<logs>/matching/{other}/{other_run}.log",
    wildcard_constraints:
        other=one_of(STUDY.evaluation.matching.against),
        other_run=r"latents[^/]+",
    conda:
        "../envs/gpu.yaml"
    params:
        cosine=settings("evaluation/matching/cosine"),
        dictionary=subpath(input.dictionary, parent=True),
        other=subpath(input.other, parent=True),
        activations=folder("activations"),
        shards=list(STUDY.shards("heldout")),
        out=subpath(output[0], parent=True),
        code=code("matching.py"),
    shell:
        command("matching.py")
        + " --log {log} --threads {threads} --cosine {params.cosine} --dictionary {params.dictionary}"
        " --features {input.features} --other {params.other} --activations {params.activations}"
        " --shards {params.shards} --out {params.out}"
