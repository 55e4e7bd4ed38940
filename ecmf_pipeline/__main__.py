"""Run `ecmf-pipe` as `python -m ecmf_pipeline`."""

from ecmf_pipeline.cli.main import main

if __name__ == "__main__":
    main()
