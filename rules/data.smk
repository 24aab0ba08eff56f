"""Text, its tokens, and the token positions that are read."""


rule corpus:
    input:
        # A function, since Snakemake would look for wildcards in the braces of a file's name.
        lambda wildcards: corpus_files(STUDY.corpus),
    output:
        "<results>/corpus/manifest.json",
    log:
        "<logs>/corpus.log",
    conda:
        "../envs/cpu.yaml"
    params:
        settings=settings("corpus"),
        seed=settings("seed"),
        code=code("corpus.py"),
    shell:
        command("corpus.py")
        + " --log {log} --settings {params.settings:q} --seed {params.seed} --out {output}"


rule tokenizer:
    input:
        corpus=rules.corpus.output,
        pretrained=lambda wildcards: tokenizer_files(STUDY.tokenizer),
        file=lambda wildcards: gguf_files(STUDY.tokenizer),
    output:
        "<results>/tokenizer/tokenizer.json",
    log:
        "<logs>/tokenizer.log",
    conda:
        "../envs/gpu.yaml"
    threads: 2
    params:
        settings=settings("tokenizer"),
        code=code("tokenizer.py"),
    shell:
        command("tokenizer.py")
        + " --log {log} --threads {threads} --settings {params.settings:q}"
        " --corpus {input.corpus} --file {input.file:q} --out {output}"


rule tokens:
    input:
        corpus=rules.corpus.output,
        tokenizer=rules.tokenizer.output,
    output:
        "<results>/tokens/{split}.h5",
    log:
        "<logs>/tokens/{split}.log",
    conda:
        "../envs/cpu.yaml"
    params:
        settings=settings("tokens"),
        code=code("tokens.py"),
    shell:
        command("tokens.py")
        + " --log {log} --threads {threads} --settings {params.settings:q}"
        " --split {wildcards.split} --corpus {input.corpus} --tokenizer {input.tokenizer} --out {output}"


rule rows:
    input:
        tokens="<results>/tokens/{split}.h5",
    output:
        "<activations>/rows/{split}-{number}.h5",
    log:
        "<logs>/rows/{split}-{number}.log",
    # Before any training, which would be for nothing where a split has too few token positions.
    priority: 1
    conda:
        "../envs/cpu.yaml"
    params:
        settings=settings("rows/{split}-{number}"),
        code=code("rows.py"),
    shell:
        command("rows.py")
        + " --log {log} --settings {params.settings:q} --tokens {input.tokens} --out {output}"
