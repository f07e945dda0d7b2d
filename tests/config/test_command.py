"""What all commands share: errors in one line with the nearest flag, help on one screen."""

import argparse

import pytest

import cotjax
from cotjax.config.command import Command, one_line_errors
from cotjax.errors import InputError


def command(**settings):
    made = Command("cook", "Cooks soup: `cotjax cook`.\n\nSlowly.", usage="--pot N", **settings)
    made.add_argument("--pot", type=int, required=True, help="how many litres")
    made.add_argument("--lid", choices=("on", "off"))
    return made


def test_own_flags_and_config_keys_are_told_apart():
    known, rest = command(takes_keys=True).parse(["--pot=3", "--rollout.group-size", "8"])
    assert known == argparse.Namespace(pot=3, lid=None)
    assert rest == ["--rollout.group-size", "8"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--pott=3"], '--pott: cotjax cook has no such flag. Did you mean "--pot"?'),
        (["--pot=x"], "--pot = x: needs a whole number."),
        ([], "cotjax cook: the following arguments are required: --pot. See cotjax cook --help."),
        (["--pot=3", "soup"], "cotjax cook: no flag stands before soup."),
        (["--pot=3", "--lid=ajar"], "argument --lid: invalid choice: 'ajar'"),
        (["--po=3"], "--po: cotjax cook has no such flag."),
        (["--zzz=3"], "--zzz: cotjax cook has no such flag. cotjax cook --help lists them."),
    ],
)
def test_a_wrong_word_is_one_sentence(argv, says):
    with pytest.raises(InputError) as error:
        command().parse(argv)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_the_nearest_may_be_a_config_key_or_a_flag_of_the_command():
    with pytest.raises(InputError, match='Did you mean "pot"'):
        command(takes_keys=True).parse(["--pott=3"])
    with pytest.raises(InputError, match='Did you mean "steps"'):
        command(takes_keys=True).parse(["--pot=3", "--stepz=4"])


def test_the_version(capsys):
    with pytest.raises(SystemExit) as stop:
        command().parse(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"cotjax {cotjax.__version__}\n"


def test_help_says_what_it_is_first(capsys):
    with pytest.raises(SystemExit) as stop:
        command(takes_keys=True).parse(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: cotjax cook --pot N\n\nCooks soup: `cotjax cook`.\n\nSlowly.")
    assert "Config keys: cotjax train --help." in shown


@pytest.mark.parametrize(("columns", "most"), [(100, 80), (60, 60), (20, 40)])
def test_help_is_no_wider_than_a_terminal_and_keeps_commands_whole(
    capsys, monkeypatch, columns, most
):
    monkeypatch.setenv("COLUMNS", str(columns))
    about = "Cooks a soup of what there is, or of what one buys on the market: `cotjax cook A B`."
    with pytest.raises(SystemExit):
        Command("cook", about, usage="A B").parse(["--help"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= most and "`cotjax cook A B`" in shown


def test_bad_input_is_one_line_and_status_2(capsys):
    @one_line_errors
    def main(word):
        if word == "bad":
            raise InputError("it is bad. Make it good.")
        return 0

    assert main("good") == 0
    assert main("bad") == 2
    assert capsys.readouterr().err == "error: it is bad. Make it good.\n"


def test_control_characters_of_a_message_are_shown_and_not_sent(capsys):
    @one_line_errors
    def main():
        raise InputError("name = \x1b[2J\ud800")

    assert main() == 2
    assert capsys.readouterr().err == "error: name = \\x1b[2J\\ud800\n"


def test_other_errors_are_not_hidden():
    @one_line_errors
    def main():
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        main()


def test_ctrl_c_is_one_line(capsys):
    @one_line_errors
    def main():
        raise KeyboardInterrupt

    assert main() == 130 and capsys.readouterr().err == "stopped by SIGINT.\n"
