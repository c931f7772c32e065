"""The parts of the gate: passwords, waits after wrong ones, sessions, the address, and what an error may say."""

from __future__ import annotations

import hmac
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.browser_tools import ROOT
from workbench.cli import main
from workbench.serving import references, secret
from workbench.serving.attempts import CLIENT, PROCESS, Attempts, Rule, client_name
from workbench.serving.secret import VARIABLE, Secret, new_token, password_from_environment, password_from_file
from workbench.serving.sessions import Sessions
from workbench.serving.settings import SAFE, Serving, is_loopback
from workbench.serving.wording import for_browser, without_folders

PASSWORD = "correct horse battery staple"


class Clock:
    """A time that a test moves."""

    def __init__(self):
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


# -- passwords ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["", PASSWORD[:-1], PASSWORD + " ", PASSWORD.upper(), "\ud800", "é" * 9, "\0"])
def test_only_the_password_matches(wrong):
    assert Secret(PASSWORD).matches(PASSWORD)
    assert not Secret(PASSWORD).matches(wrong)


def test_passwords_are_compared_by_digests_of_one_length_in_constant_time(monkeypatch):
    compared = []
    honest = hmac.compare_digest
    monkeypatch.setattr(secret.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or honest(a, b))
    for given in ("", PASSWORD, "x" * 1000):
        Secret(PASSWORD).matches(given)
    assert len(compared) == 3
    assert {len(part) for pair in compared for part in pair} == {32}


def test_a_secret_does_not_show_its_password():
    one = Secret(PASSWORD)
    assert PASSWORD not in repr(one) + str(vars(one))
    assert PASSWORD not in repr(Serving(password=PASSWORD))


def test_a_password_is_the_first_line_of_a_file_that_only_its_owner_opens(tmp_path):
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\nnot this\n")
    file.chmod(0o600)
    assert password_from_file(file) == PASSWORD
    for mode in (0o640, 0o604, 0o660):
        file.chmod(mode)
        with pytest.raises(ValueError, match="chmod 600"):
            password_from_file(file)


@pytest.mark.parametrize("text", ["", "short", "x" * 11, "x" * 1025])
def test_a_password_that_cannot_face_a_network_is_refused(tmp_path, text):
    file = tmp_path / "password"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ValueError, match="12 to 1024 are needed"):
        password_from_file(file)


def test_the_environment_gives_the_password_once(monkeypatch):
    monkeypatch.setenv(VARIABLE, PASSWORD)
    assert password_from_environment() == PASSWORD
    assert VARIABLE not in os.environ
    assert password_from_environment() is None


def test_tokens_are_long_and_never_the_same():
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 43  # 256 bits


# -- waits -------------------------------------------------------------------------------------------


def test_waits_grow_with_wrong_passwords_up_to_the_longest():
    rule = Rule(free=3, first_s=1, growth=2, longest_s=10, forgiven_s=60)
    assert [rule.wait(wrong) for wrong in range(9)] == [0, 0, 0, 0, 1, 2, 4, 8, 10]
    assert rule.wait(10**9) == 10


def test_a_client_waits_after_its_own_wrong_passwords_and_others_do_not():
    now = Clock()
    attempts = Attempts(now=now)
    waits = []
    for _ in range(7):
        waits.append(attempts.wait("a"))
        now.s += waits[-1]
        attempts.failed("a")
    assert waits == [0, 0, 0, 0, 1, 2, 4]
    assert attempts.wait("a") == 8
    assert attempts.wait("b") == 0
    now.s += 7.5
    assert attempts.wait("a") == 0.5


def test_a_guesser_with_many_addresses_is_slowed_down_by_the_limit_of_the_process():
    now = Clock()
    attempts, guesses = Attempts(now=now), 0
    hour = now.s + 3600
    while now.s < hour:
        client = f"client {guesses}"  # a new address for each guess
        now.s += attempts.wait(client)
        attempts.failed(client)
        guesses += 1
    # free ones, then never faster than one each longest_s, but for those forgiven
    assert guesses < PROCESS.free + 3600 / PROCESS.forgiven_s + 20
    assert attempts.wait("someone else") > 0


def test_one_client_guesses_about_a_hundred_passwords_a_day():
    now = Clock()
    attempts, guesses = Attempts(now=now), 0
    day = now.s + 24 * 3600
    while now.s < day:
        now.s += attempts.wait("a") + 1e-6
        attempts.failed("a")
        guesses += 1
    assert 90 <= guesses <= 110


def test_the_right_password_clears_a_client():
    attempts = Attempts(now=Clock())
    for _ in range(6):
        attempts.failed("a")
    attempts.succeeded("a")
    assert attempts.wait("a") == 0


def test_wrong_passwords_are_forgotten_one_by_one():
    now = Clock()
    attempts = Attempts(now=now)
    for _ in range(6):
        attempts.failed("a")
    now.s += 4 * CLIENT.forgiven_s
    attempts.failed("a")  # the third that counts
    assert attempts.wait("a") == 0


def test_a_million_clients_take_no_more_memory_than_the_most():
    attempts = Attempts(most_clients=50, now=Clock())
    for number in range(2000):
        attempts.failed(f"client {number}")
    assert len(attempts) == 50


@pytest.mark.parametrize(
    ("address", "name"),
    [("10.1.2.3", "10.1.2.3"), ("::ffff:10.1.2.3", "10.1.2.3"), ("2001:db8::1:2:3:4", "2001:db8::/64"),
     ("2001:db8::9:9:9:9", "2001:db8::/64"), ("fe80::1%eth0", "fe80::/64"), ("", ""), ("x" * 999, "x" * 64)],
)  # fmt: skip
def test_an_address_stands_for_the_machine_behind_it(address, name):
    assert client_name(address) == name


# -- sessions ----------------------------------------------------------------------------------------


def test_a_session_lasts_its_time_and_no_longer():
    now = Clock()
    sessions = Sessions(lifetime_s=60, now=now)
    name = sessions.begin()
    now.s += 59
    assert sessions.left_s(name) == 1
    now.s += 1
    assert sessions.left_s(name) == 0
    assert len(sessions) == 0


def test_sessions_end_when_told_and_names_cannot_be_made_up():
    sessions = Sessions()
    one, two = sessions.begin(), sessions.begin()
    sessions.end(one)
    sessions.end("never begun")
    assert sessions.left_s(one) == 0
    assert sessions.left_s(two) > 0
    for made_up in ("", "x", two[:-1], two + "x", "\ud800"):
        assert sessions.left_s(made_up) == 0


def test_only_so_many_sessions_are_kept():
    sessions = Sessions(most=5)
    names = [sessions.begin() for _ in range(9)]
    assert [sessions.left_s(name) > 0 for name in names] == [False] * 4 + [True] * 5


# -- the address -------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "some.machine", "127.0.0.1.evil.org", ""])
def test_an_address_that_others_reach_demands_a_password(host):
    with pytest.raises(ValueError, match="a password is needed"):
        Serving(host=host)
    assert Serving(host=host, password=PASSWORD).hosts is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_none_but_answers_to_its_own_names_only(host):
    assert is_loopback(host)
    assert Serving(host=host).hosts == {"localhost", "127.0.0.1", "::1", host}


def test_the_command_says_so_in_one_sentence_and_listens_nowhere():
    done = CliRunner(env={VARIABLE: None}).invoke(main, ["app", "--host", "0.0.0.0", "--no-browser"])
    assert done.exit_code == 2
    assert done.output.count("\n") == 1
    assert "a password is needed" in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--token", "--certificate", "{file}"], "both --certificate and --key"),
        (["--token", "--password-file", "{file}"], "Give one password"),
        (["--models", "{file}"], "is a file"),
        (["--stores", "{file}.gone"], "does not exist"),
    ],
)
def test_bad_options_are_one_sentence_each(tmp_path, options, message):
    file = tmp_path / "file"
    file.write_text(PASSWORD)
    file.chmod(0o600)
    done = CliRunner(env={VARIABLE: None}).invoke(main, ["app", *(one.format(file=file) for one in options)])
    assert done.exit_code == 2
    assert message in done.output


def test_no_option_takes_the_password_itself():
    told = CliRunner().invoke(main, ["app", "--help"]).output
    assert "--password-file" in told
    assert "--password " not in told
    assert "--token TEXT" not in told


def test_streamlits_file_says_the_same_as_the_settings():
    import tomllib

    told = tomllib.loads((ROOT / ".streamlit/config.toml").read_text())
    said = {f"{section}.{key}": value for section, options in told.items() for key, value in options.items()}
    options = Serving().options()
    assert {name: options[name] for name in said if name in options} == {n: v for n, v in said.items() if n in options}
    for name in ("server.enableXsrfProtection", "server.maxUploadSize", "browser.gatherUsageStats", "server.address"):
        assert name in said
    assert SAFE["server.enableXsrfProtection"] is True
    assert SAFE["browser.gatherUsageStats"] is False


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/models/mine/config.json is broken", "models/mine/config.json is broken"),
        ("the folder '/srv/models' is empty", "the folder 'models' is empty"),
        ("/srv/models2/x is not it", "x is not it"),
        ("[Errno 13] Permission denied: '/home/ann/.secret/key.pem'", "[Errno 13] Permission denied: 'key.pem'"),
        (r"C:\Users\ann\key.pem is broken", "key.pem is broken"),
        (r"\\server\share\key.pem is broken", "key.pem is broken"),
        ("~/models/mine is broken", "mine is broken"),
        ("/etc/passwd:3: no such", "passwd:3: no such"),
        ("'demo/dcformer' has 4 layers, 3/4 and 1 / 2 of them", "'demo/dcformer' has 4 layers, 3/4 and 1 / 2 of them"),
        ("tokens/s and https://arxiv.org/abs/2405.08553", "tokens/s and https://arxiv.org/abs/2405.08553"),
    ],
)
def test_paths_lose_the_folders_of_this_machine(text, shown):
    assert without_folders(text, [Path("/srv/models"), Path("/")]) == shown


def test_the_inner_folder_counts():
    assert without_folders("/a/b/c/d", [Path("/a/b"), Path("/a/b/c")]) == "c/d"


def test_the_workbenchs_own_folders_are_known(monkeypatch, tmp_path):
    inside = tmp_path / "my models"  # with a space, which no pattern would see
    inside.mkdir()
    monkeypatch.setenv("WORKBENCH_MODELS", str(inside))
    said = for_browser(OSError(2, "No such file", str(inside / "x y" / "config.json")))
    assert said == "[Errno 2] No such file: 'my models/x y/config.json'"
    assert tempfile.gettempdir() not in for_browser(ValueError(f"{tempfile.gettempdir()}/abc/def is gone"))
    assert str(ROOT) not in for_browser(ValueError(f"{ROOT}/studies/demo_pair/x.parquet is gone"))


def test_an_unforeseen_error_is_a_neutral_sentence_whose_reference_the_log_has(caplog):
    with caplog.at_level(logging.ERROR):
        told = references.report(RuntimeError("the secret path is /etc/shadow"))
    number = told.split("reference ")[1].rstrip(".")
    assert "shadow" not in told
    assert "secret" not in told
    assert number in caplog.text
    assert "/etc/shadow" in caplog.text


# -- away from the command ---------------------------------------------------------------------------


def test_streamlit_alone_on_an_open_address_answers_nothing():
    code = (
        "from streamlit import config; from streamlit.testing.v1 import AppTest\n"
        "config.set_option('server.address', '0.0.0.0')\n"
        "page = AppTest.from_file('app.py', default_timeout=100).run()\n"
        "print(len(page.sidebar), len(page.text_area), [shown.value for shown in page.error])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("0 0 ['The workbench was started without its gate"), done.stdout + done.stderr
