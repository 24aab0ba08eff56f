"""What a language model says of features, where the study names one."""


rule windows:
    input:
        dictionary="<results>/dictionaries/{dictionary}/{run}/crosscoder.safetensors",
        features="<results>/features/{dictionary}/{run}/features.parquet",
        shards=lambda wildcards: shard_files(
            STUDY.sites(wildcards.dictionary), "heldout"
        ),
        rows=rows_files("heldout"),
        tokens="<results>/tokens/heldout.h5",
        tokenizer=rules.tokenizer.output,
    output:
        "<results>/features/{dictionary}/{run}/windows.parquet",
    log:
        "<logs>/windows/{dictionary}/{run}.log",
    conda:
        "../envs/gpu.yaml"
    params:
        settings=settings("windows"),
        choice=settings("interpreted"),
        dictionary=subpath(input.dictionary, parent=True),
        activations=folder("activations"),
        shards=list(STUDY.shards("heldout")),
        code=code("windows.py"),
    shell:
        command("windows.py")
        + " --log {log} --threads {threads} --settings {params.settings:q} --choice {params.choice:q}"
        " --dictionary {params.dictionary} --features {input.features} --activations {params.activations}"
        " --shards {params.shards} --tokens {input.tokens} --tokenizer {input.tokenizer} --out {output}"


rule interpretation:
    input:
        "<results>/features/{dictionary}/{run}/windows.parquet",
    output:
        "<results>/features/{dictionary}/{run}/interpretations.parquet",
    log:
        "<logs>/interpretation/{dictionary}/{run}.log",
    # Nodes of a cluster often have no network, and this way the API key stays with the process that was given it.
    localrule: True
    conda:
        "../envs/cpu.yaml"
    params:
        settings=settings("interpretation"),
        # No output: answers that were paid for outlive a failed attempt and a change of settings.
        cache=folder("cache/interpretation"),
        code=code("interpretation.py"),
    shell:
        command("interpretation.py")
        + " --log {log} --settings {params.settings:q} --windows {input} --cache {params.cache} --out {output}"
