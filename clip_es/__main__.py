"""`python -m clip_es` is `clip-es`."""

from clip_es.pipelines.cli import program

if __name__ == "__main__":
    raise SystemExit(program())
