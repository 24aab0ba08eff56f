"""Activations that no disk holds: how they are read, and their statistics."""


rule streamed:
    output:
        STREAMED_FILE,
    log:
        "<logs>/streamed.log",
    localrule: True
    conda:
        "../envs/gpu.yaml"
    params:
        settings=settings("streamed"),
        # Whatever reads activations takes this file: so an edit of the code that makes them changes it.
        code=code(
            "streamed.py",
            "ontogeny.activations.streaming",
            "ontogeny.activations.worker",
        ),
        models=folder("models"),
        tokens=folder("tokens"),
    shell:
        command("streamed.py")
        + " --log {log} --settings {params.settings:q} --code {params.code} --models {params.models}"
        " --tokens {params.tokens} --out {output}"


# One job measures every hook of a checkpoint, so checkpoints with the same hooks share a rule.
for number, (hooks, checkpoints) in enumerate(statistics_groups()):

    rule:
        name:
            numbered("statistics", number)
        input:
            lambda wildcards: shard_files(
                [
                    site
                    for site in STUDY.all_sites()
                    if site.checkpoint == wildcards.checkpoint
                ],
                "train",
            ),
        output:
            [f"<activations>/{{checkpoint}}/{hook}/statistics.json" for hook in hooks],
        log:
            "<logs>/statistics/{checkpoint}.log",
        wildcard_constraints:
            checkpoint=one_of(checkpoints),
        conda:
            "../envs/gpu.yaml"
        params:
            hooks=hooks,
            activations=folder("activations"),
            shards=list(STUDY.shards("train")),
            code=code("streamed_statistics.py"),
        shell:
            command("streamed_statistics.py")
            + " --log {log} --threads {threads} --checkpoint {wildcards.checkpoint}"
            " --hooks {params.hooks} --activations {params.activations} --shards {params.shards}"
