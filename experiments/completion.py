"""Completion of the commands' words by the Tab key, as a script for bash or zsh."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import cli, commands

DESCRIPTION = """Prints a script by which a shell completes commands, flags, recipes and figures.

    python -m experiments.completion bash > ~/.subspace_jax.bash
    source ~/.subspace_jax.bash           (a line for ~/.bashrc; zsh and ~/.zshrc likewise)

Then, in the folder of the clone:

    python -m experiments.<TAB>
    python -m experiments.cifar --config experiments/configs/cifar10.py:<TAB>
    python -m experiments.cifar --config.optimizer.<TAB>
    python -m experiments.reproduce digits --only <TAB>

The words are those of this version: print the script anew after an update."""

# Words are matched whole; what readline takes for finished at a colon or "=" is cut off again.
_SCRIPT = """\
_subspace_jax() {{
  local line="${{COMP_LINE:0:$COMP_POINT}}" cur flag module words word cut=""
  cur="${{line##* }}"
  COMPREPLY=()
  case "$line" in
    *" -m experiments."*" "*) ;;
    *" -m "*) [[ "${{line##* -m }}" == *" "* ]] && return
       words="{modules}" ;;
    *) return ;;
  esac
  if [[ -z "$words" ]]; then
    module="${{line#* -m experiments.}}"
    module="${{module%% *}}"
    flag="${{line% *}}"
    flag="${{flag##* }}"
    case "$cur" in
      --config=*) words="{configs_after_equals}" ;;
      --only=*) words="{figures_after_equals}" ;;
      *) case "$flag" in
           --config) words="{configs}" ;;
           --only) words="{figures}" ;;
           --scale) words="{scales}" ;;
           *) case "$module" in
{flags}
              esac ;;
         esac ;;
    esac
  fi
  [[ "$COMP_WORDBREAKS" == *:* ]] && cut="${{cur%"${{cur##*[:=]}}"}}"
  while read -r word; do
    [[ -n "$word" ]] && COMPREPLY+=("${{word#"$cut"}}")
  done < <(compgen -W "$words" -- "$cur")
  [[ "${{COMPREPLY[*]}}" == *= ]] && compopt -o nospace 2>/dev/null
  return 0
}}
complete -o default -o bashdefault -F _subspace_jax python python3
"""
_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def script(shell: str) -> str:
    """The script for a shell.

    Args:
      shell: "bash" or "zsh".
    """
    from experiments import plan, reproduce

    names = [f"experiments.{name}" for name in commands.sentences()]
    configs, figures = list(config_words()), list(plan.FIGURES)
    flags = "\n".join(
        f'                {name}) words="{" ".join(words_of(name))}" ;;'
        for name in commands.sentences()
    )
    text = _SCRIPT.format(
        modules=" ".join(names),
        configs=" ".join(configs),
        configs_after_equals=" ".join(f"--config={word}" for word in configs),
        figures=" ".join(figures),
        figures_after_equals=" ".join(f"--only={word}" for word in figures),
        scales=" ".join(dict.fromkeys(_scales(reproduce.SUITES))),
        flags=flags,
    )
    return (_ZSH if shell == "zsh" else "") + text


def _scales(suites: dict[str, Sequence[str]]) -> list[str]:
    return [scale for scales in suites.values() for scale in scales]


def config_words() -> list[str]:
    """All FILE:KIND of the configs that come with the commands."""
    from experiments import recipes, reproduce

    folder = Path("experiments/configs")
    runs = [name for name in _config_files() if name != "suites"]
    return [
        *(f"{folder / name}.py:{recipe}" for name in runs for recipe in recipes.RECIPES),
        *(
            f"{folder}/suites.py:{name if name == scale else f'{name}-{scale}'}"
            for name, scales in reproduce.SUITES.items()
            for scale in scales
        ),
    ]


def words_of(command: str) -> list[str]:
    """The flags of a command and, where it has a config, the config's values as flags."""
    found = commands.flags(command)
    if command == "reproduce":
        from experiments import reproduce
        from experiments.configs import suites

        config = suites.get_config()
        found = [*reproduce.SUITES, *found]
    elif "--overwrite" in found:
        name = command if command in _config_files() else "cifar10"
        config = importlib.import_module(f"experiments.configs.{name}").get_config()
    else:
        return found
    return found + [f"--{name}=" for name, _ in cli.flatten(config.to_dict())]


def _config_files() -> list[str]:
    folder = Path(__file__).parent / "configs"
    return sorted(p.stem for p in folder.glob("*.py") if p.stem not in ("__init__", "base"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.completion",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=["bash", "zsh"])
    print(script(parser.parse_args(argv).shell), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
