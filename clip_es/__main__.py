"""`python -m clip_es` is `clip-es`."""

from clip_es.pipelines.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
