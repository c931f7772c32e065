"""python -m workbench COMMAND"""

from workbench.cli import main

if __name__ == "__main__":
    main(prog_name="python -m workbench")
