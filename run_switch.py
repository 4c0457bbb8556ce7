"""The command line of mtf_switch; see `python run_switch.py --help`."""

from mtf_switch.cli import process

if __name__ == "__main__":
    process.run()
