"""Activations of every site at the same rows, and their statistics."""

# One job reads every hook of a checkpoint in one forward pass, so checkpoints with the same hooks share a rule.
for number, (hooks, checkpoints) in enumerate(STUDY.hook_groups().items()):

    rule:
        name:
            numbered("activations", number)
        input:
            checkpoint="<results>/models/{checkpoint}/checkpoint.json",
            tokens="<results>/tokens/{split}.h5",
            rows="<results>/activations/rows/{split}-{number}.h5",
        output:
            [
                f"<results>/activations/{{checkpoint}}/{hook}/{{split}}-{{number}}.h5"
                for hook in hooks
            ],
        log:
            f"<logs>/activations/{{checkpoint}}/{{split}}-{{number}}.log",
        wildcard_constraints:
            checkpoint=one_of(checkpoints),
        conda:
            "../envs/gpu.yaml"
        params:
            settings=settings("harvest"),
            hooks=hooks,
            out=f"{STUDY.root}/activations/{{checkpoint}}",
            code=code("activations.py"),
        shell:
            command("activations.py")
            + " --log {log} --threads {threads} --settings {params.settings:q}"
            " --checkpoint {input.checkpoint} --tokens {input.tokens} --rows {input.rows}"
            " --hooks {params.hooks} --out {params.out}"


rule planted:
    input:
        rows="<results>/activations/rows/{split}-{number}.h5",
        # Not read, but made from the same settings and kept beside: what dictionaries are compared with.
        truth="<results>/models/{model}/truth.csv",
        directions="<results>/models/{model}/directions/{hook}.safetensors",
    output:
        "<results>/activations/{model}/step{step}/{hook}/{split}-{number}.h5",
    log:
        "<logs>/planted/{model}/step{step}/{hook}/{split}-{number}.log",
    wildcard_constraints:
        model=one_of(PLANTED),
        hook=r"[^/]+",
    conda:
        "../envs/gpu.yaml"
    params:
        settings=settings("models/{model}"),
        dtype=STUDY.activations.dtype,
        code=code("planted.py"),
    shell:
        command("planted.py")
        + " --log {log} --settings {params.settings:q} --dtype {params.dtype} --model {wildcards.model}"
        " --step {wildcards.step} --hook {wildcards.hook} --rows {input.rows} --out {output}"


rule statistics:
    input:
        expand("<results>/activations/{{site}}/{shard}.h5", shard=STUDY.shards("train")),
    output:
        "<results>/activations/{site}/statistics.json",
    log:
        "<logs>/statistics/{site}.log",
    wildcard_constraints:
        site=one_of([site.key for site in STUDY.all_sites()]),
    conda:
        "../envs/gpu.yaml"
    params:
        code=code("site_statistics.py"),
        # Not used: shards whose making failed are missing, and what was made of the old ones shall not look up to date.
        harvest=settings("harvest"),
        read=lambda wildcards: code(
            "planted.py"
            if wildcards.site.split("/")[0] in PLANTED
            else "activations.py"
        ),
    shell:
        command("site_statistics.py") + " --log {log} --shards {input} --out {output}"
