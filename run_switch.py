"""The command line of mtf_switch; see `python run_switch.py --help`."""

from mtf_switch.cli.main import run

if __name__ == "__main__":
    run()
