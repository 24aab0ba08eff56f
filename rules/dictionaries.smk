"""Crosscoders: one job per run of a sweep, or one for all runs of a seed."""


rule dictionary:
    input:
        shards=lambda wildcards: shard_files(STUDY.sites(wildcards.dictionary), "train"),
        rows=rows_files("train"),
        statistics=lambda wildcards: statistics_files(STUDY.sites(wildcards.dictionary)),
    output:
        run_files("{dictionary}", "{run}"),
    log:
        "<logs>/dictionary/{dictionary}/{run}.log",
    wildcard_constraints:
        dictionary=one_of(APART),
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


for number, name in enumerate(TOGETHER):

    rule:
        name:
            numbered("sweep", number)
        input:
            shards=shard_files(STUDY.sites(name), "train"),
            rows=rows_files("train"),
            statistics=statistics_files(STUDY.sites(name)),
        output:
            [
                file
                for run in STUDY.sweep(name).runs([0])
                for file in run_files(name, run.removesuffix("0") + "{seed}")
            ],
        log:
            f"<logs>/sweep/{name}/seed{{seed}}.log",
        wildcard_constraints:
            seed=r"-?\d+",
        conda:
            "../envs/gpu.yaml"
        # As many as `dictionary` has, on which the bytes of a run depend; products that are shared have other bytes.
        threads: 8 if STUDY.sweep(name).shares_products else min(len(STUDY.sites(name)), 8)
        params:
            activations=folder("activations"),
            settings=settings(f"sweeps/{name}"),
            # No output, as that of a run.
            state=f"{STUDY.root}/states/{name}/seed{{seed}}",
            out=f"{STUDY.root}/dictionaries/{name}",
            code=code("sweep.py"),
        shell:
            command("sweep.py")
            + " --log {log} --threads {threads} --settings {params.settings:q} --seed {wildcards.seed}"
            " --activations {params.activations} --state {params.state} --fingerprint {params.code} --out {params.out}"
