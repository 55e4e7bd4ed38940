"""`python -m ecmf_pipeline` is `ecmf-pipe`."""

from ecmf_pipeline.cli.main import main

if __name__ == "__main__":
    main()
