"""Crosscoders: one job per run of a sweep."""


rule dictionary:
    input:
        shards=lambda wildcards: shard_files(STUDY.sites(wildcards.dictionary), "train"),
        rows=rows_files("train"),
        statistics=lambda wildcards: statistics_files(STUDY.sites(wildcards.dictionary)),
    output:
        "<results>/dictionaries/{dictionary}/{run}/crosscoder.safetensors",
        "<results>/dictionaries/{dictionary}/{run}/config.json",
        "<results>/dictionaries/{dictionary}/{run}/training.csv",
    log:
        "<logs>/dictionary/{dictionary}/{run}.log",
    conda:
        "../envs/gpu.yaml"
    threads: lambda wildcards: min(len(STUDY.sites(wildcards.dictionary)), 8)
    resources:
        # Processes on all nodes that share a run: the sites are divided among them, and rows among data_ranks.
        nodes=1,
        processes=1,
        data_ranks=1,
        # How long torchrun waits for a run that is to stop.
        seconds_to_save=240,
    params:
        activations=folder("activations"),
        settings=settings("runs/{dictionary}/{run}"),
        # No output: Snakemake would delete it when an attempt fails, and the next attempt resumes from it.
        state=f"{STUDY.root}/states/{{dictionary}}/{{run}}",
        out=subpath(output[0], parent=True),
        code=code("dictionary.py"),
        sites=lambda wildcards: len(STUDY.sites(wildcards.dictionary)),
    shell:
        launched("dictionary.py")
        + " --log {log} --threads {threads} --settings {params.settings:q}"
        " --activations {params.activations} --state {params.state} --fingerprint {params.code} --out {params.out}"
