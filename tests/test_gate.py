"""The gate: nothing that the server serves is reached without the password, and nothing by another site's page."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import subprocess
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import websockets
from playwright.sync_api import expect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from tests.served import PASSWORD, serve_workbench
from workbench.serving.attempts import Attempts, Rule
from workbench.serving.door import ENTER, LEAVE, Door, own_path
from workbench.serving.gate import Gate
from workbench.serving.secret import VARIABLE, Secret
from workbench.serving.sessions import Sessions
from workbench.serving.settings import Serving

PATIENCE = 90_000  # ms; a busy machine is slow, and no test here measures speed
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
SERVED = [
    "/", "/probes", "/index.html", "/favicon.png", "/static/js/index.js", "/manifest.json",
    "/_stcore/health", "/_stcore/script-health-check", "/_stcore/metrics", "/_stcore/host-config",
    "/_stcore/stream", "/_stcore/upload_file/session/file", "/_stcore/bidi-components/a/b.js",
    "/_stcore/agent/interact", "/_stcore/agent/openapi.json", "/_stcore/agent/mcp", "/media/abc.png", "/component/a/b",
    "/app/static/x", "/auth/login", "/auth/logout", "/oauth2callback", "/_workbench/other", "/_workbench/enter/",
    "/%5fworkbench/x", "//_workbench/enter", "/_WORKBENCH/ENTER",
]  # fmt: skip
"""What Streamlit answers to, and names that look like those of the sign-in page."""


class Inner:
    """An app behind the gate, which says what reached it."""

    def __init__(self):
        self.reached: list[str] = []

    async def __call__(self, scope, receive, send):
        self.reached.append(scope["path"])
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await asyncio.Event().wait()  # until someone ends it
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})


def gate_before(inner: Inner, *, lifetime_s: float = 60, attempts: Attempts | None = None) -> tuple[Gate, Sessions]:
    sessions = Sessions(lifetime_s)
    door = Door(Secret(PASSWORD), sessions, Attempts() if attempts is None else attempts)
    return Gate(inner, door, sessions), sessions


def ask(gate: Gate, *requests: tuple, client: str = "10.0.0.1") -> list[httpx.Response]:
    """The answers to requests of one browser, in turn: (method, path, further arguments of httpx)."""

    async def asking() -> list[httpx.Response]:
        transport = httpx.ASGITransport(gate, client=(client, 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://here:80") as browser:
            return [await browser.request(one[0], one[1], **(one[2] if len(one) > 2 else {})) for one in requests]

    return asyncio.run(asking())


def enter(password: str, **form: str) -> tuple:
    return ("POST", ENTER, {"data": {"password": password, **form}})


# -- without the password ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_reached_without_the_password(method):
    inner = Inner()
    gate, _ = gate_before(inner)
    answers = ask(gate, *((method, f"http://here{path}") for path in SERVED))
    assert {answer.status_code for answer in answers} == {401}
    assert inner.reached == []


def test_a_made_up_cookie_opens_nothing():
    inner = Inner()
    gate, sessions = gate_before(inner)
    sessions.begin()
    for value in ("", "x", "None", "a" * 43):
        assert ask(gate, ("GET", "/", {"headers": {"Cookie": f"workbench_80={value}"}}))[0].status_code == 401
    assert inner.reached == []


def test_the_right_password_opens_everything_and_the_cookie_is_kept_from_scripts_and_other_sites():
    inner = Inner()
    gate, _ = gate_before(inner)
    first, second = ask(gate, enter(PASSWORD, next="/probes?study=a"), ("GET", "/media/abc.png"))
    assert (first.status_code, first.headers["location"]) == (303, "/probes?study=a")
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "max-age=60" in cookie
    assert second.text == "inside"


def test_over_tls_the_cookie_is_for_tls_alone():
    gate, _ = gate_before(Inner())
    [answer] = ask(gate, ("POST", f"https://here{ENTER}", {"data": {"password": PASSWORD}}))
    assert "secure" in answer.headers["set-cookie"].lower()


def test_signing_out_ends_the_session():
    inner = Inner()
    gate, sessions = gate_before(inner)
    answers = ask(gate, enter(PASSWORD), ("GET", "/"), ("POST", LEAVE), ("GET", "/"))
    assert [answer.status_code for answer in answers] == [303, 200, 303, 401]
    assert len(sessions) == 0


def test_a_person_is_shown_the_sign_in_page_and_comes_back_to_where_it_was():
    gate, _ = gate_before(Inner())
    [answer] = ask(gate, ("GET", '/probes?a="><script>', {"headers": {"Accept": "text/html"}}))
    assert answer.status_code == 401
    assert 'name="next" value="/probes?a=%22%3E%3Cscript%3E"' in answer.text
    assert answer.text.count("<script") == 1
    assert "no-store" in answer.headers["cache-control"]
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", answer.headers["content-security-policy"])[1]
    assert f'<script nonce="{nonce}">' in answer.text


@pytest.mark.parametrize(
    "elsewhere",
    ["//e.org", "https://e.org", "/\\e.org", "javascript:alert(1)", "evil", "/a\r\nX: y", "", "/é", "/" * 9999],
)
def test_nobody_is_sent_elsewhere_after_signing_in(elsewhere):
    assert own_path(elsewhere) == "/"
    gate, _ = gate_before(Inner())
    [answer] = ask(gate, enter(PASSWORD, next=elsewhere))
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize(
    "body", [b"", b"password", b"\xff\xfe", b"a=1&" * 100, b"password=" + b"x" * 100_000, b'{"password": "x"}']
)
def test_a_form_that_is_none_lets_nobody_in(body):
    inner = Inner()
    gate, sessions = gate_before(inner)
    [answer] = ask(gate, ("POST", ENTER, {"content": body}))
    assert answer.status_code in (400, 401)
    assert len(sessions) == 0


def test_a_form_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr("workbench.serving.door.FORM_S", 0.05)
    gate, _ = gate_before(Inner())

    async def slow():
        yield b"password="
        await asyncio.sleep(30)

    [answer] = ask(gate, ("POST", ENTER, {"content": slow()}))
    assert answer.status_code == 400


def test_who_goes_away_amid_the_form_leaves_no_error_and_no_session():
    gate, sessions = gate_before(Inner())
    pieces = iter([{"type": "http.request", "body": b"password=", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[dict] = []
    scope = {"type": "http", "method": "POST", "path": ENTER, "server": ("here", 80), "client": ("10.0.0.1", 5),
             "headers": [(b"host", b"here")], "query_string": b"", "scheme": "http"}  # fmt: skip

    async def receive():
        return next(pieces)

    async def send(message):
        sent.append(message)

    asyncio.run(gate(scope, receive, send))
    assert sent[0]["status"] == 400
    assert len(sessions) == 0


# -- wrong passwords ---------------------------------------------------------------------------------


def test_wrong_passwords_make_a_client_wait_even_with_the_right_one():
    gate, _ = gate_before(Inner(), attempts=Attempts(client=Rule(2, 60, 2, 900, 900)))
    answers = ask(gate, *[enter("wrong") for _ in range(3)], enter(PASSWORD))
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    assert "set-cookie" not in answers[-1].headers
    assert answers[-1].headers["retry-after"] == "60"
    assert ask(gate, enter(PASSWORD), client="10.0.0.2")[0].status_code == 303  # others need not wait


def test_forms_sent_at_once_share_no_attempt():
    attempts = Attempts(client=Rule(2, 60, 2, 900, 900))
    gate, _ = gate_before(Inner(), attempts=attempts)

    async def together() -> list[int]:
        transport = httpx.ASGITransport(gate, client=("10.0.0.1", 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as browser:
            sent = [browser.post(ENTER, data={"password": f"guess {number}"}) for number in range(40)]
            return [answer.status_code for answer in await asyncio.gather(*sent)]

    assert sorted(asyncio.run(together())) == [401] * 3 + [429] * 37


# -- other sites -------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["http://evil.org", "null", "http://localhost:9", "http://here.evil.org", "here:80"])
def test_a_page_of_another_site_is_refused_though_it_has_the_cookie(origin):
    inner = Inner()
    gate, _ = gate_before(inner)
    sent = {"headers": {"Origin": origin}}
    _, *answers = ask(gate, enter(PASSWORD), ("GET", "/", sent), ("PUT", "/_stcore/upload_file/a/b", sent),
                      ("POST", ENTER, sent), ("POST", LEAVE, sent))  # fmt: skip
    assert {answer.status_code for answer in answers} == {403}
    assert inner.reached == []


def test_without_a_password_the_server_answers_to_its_own_names_only():
    inner = Inner()
    gate = Gate(inner, hosts=frozenset({"localhost", "127.0.0.1", "::1"}))
    good, bad = ["localhost", "127.0.0.1:8501", "[::1]:8501", "LOCALHOST."], ["evil.org", "", "localhost.evil.org", "["]
    asked = [("GET", "/", {"headers": {"Host": host}}) for host in (*good, *bad)]
    assert [answer.status_code for answer in ask(gate, *asked)] == [200] * 4 + [421] * 4


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "0:0:0:0:0:0:0:1", "localhost"])
def test_the_address_that_is_printed_is_one_that_the_server_answers_to(host):
    serving = Serving(host=host)
    [answer] = ask(Gate(Inner(), hosts=serving.hosts), ("GET", serving.url(8501)))
    assert answer.text == "inside"


def test_every_answer_keeps_the_browser_from_other_sites_frames_and_guessed_types():
    gate, _ = gate_before(Inner())
    for answer in ask(gate, ("GET", "/"), enter(PASSWORD), ("GET", "/"), ("GET", "/media/x.html"), ("GET", ENTER)):
        policy = answer.headers["content-security-policy"]
        assert "http" not in policy
        assert "*" not in policy
        assert "frame-ancestors 'none'" in policy or "sandbox" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"


# -- the connection of a page ------------------------------------------------------------------------


def connect(gate: Gate, cookie: str, until: float = 1.0, meanwhile=lambda: None) -> list[str]:
    """What a gate answers to a page that connects and then keeps quiet."""
    sent: list[str] = []

    async def connecting() -> None:
        scope = {"type": "websocket", "path": "/_stcore/stream", "server": ("here", 80), "client": ("10.0.0.1", 5),
                 "headers": [(b"host", b"here"), (b"cookie", f"workbench_80={cookie}".encode())],
                 "query_string": b"", "scheme": "ws"}  # fmt: skip

        async def send(message) -> None:
            sent.append(message["type"])

        asyncio.get_running_loop().call_later(0.05, meanwhile)
        await asyncio.wait_for(gate(scope, asyncio.Event().wait, send), until)

    asyncio.run(connecting())
    return sent


def test_a_page_does_not_connect_without_a_session():
    inner = Inner()
    gate, _ = gate_before(inner)
    assert connect(gate, "made up") == ["websocket.close"]
    assert inner.reached == []


def test_a_connection_ends_when_its_session_runs_out():
    gate, sessions = gate_before(Inner(), lifetime_s=0.1)
    assert connect(gate, sessions.begin(), until=20) == ["websocket.accept", "websocket.close"]


def test_signing_out_ends_the_connections_of_that_session_alone():
    gate, sessions = gate_before(Inner())
    mine, other = sessions.begin(), sessions.begin()
    assert connect(gate, mine, 20, lambda: sessions.end(mine)) == ["websocket.accept", "websocket.close"]
    with pytest.raises(TimeoutError):
        connect(gate, other, 0.3, lambda: sessions.end(mine))


# -- the real server ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    file = folder / "password"
    file.write_text(PASSWORD + "\n")
    file.chmod(0o600)
    with serve_workbench(folder / "log", "--host", "0.0.0.0", "--password-file", str(file)) as server:
        yield server


@pytest.fixture(scope="module")
def address(served):
    return served.address.replace("localhost", "127.0.0.1")


def test_what_streamlit_serves_is_behind_the_gate(address):
    with httpx.Client(base_url=address) as client:
        for path in SERVED:
            for method in METHODS:
                assert client.request(method, f"{address}{path}").status_code == 401, (method, path)
        client.post(ENTER, data={"password": PASSWORD})
        assert client.get("/_stcore/health").text == "ok"
        assert client.get("/").status_code == 200


def test_streamlits_own_stream_is_behind_the_gate(address):
    async def connecting(**headers: str) -> None:
        url = address.replace("http", "ws") + "/_stcore/stream"
        async with websockets.connect(url, additional_headers=headers, subprotocols=["streamlit"]):
            pass

    with pytest.raises(websockets.InvalidStatus) as refused:
        asyncio.run(connecting())
    assert refused.value.response.status_code == 403
    with httpx.Client(base_url=address) as client:
        client.post(ENTER, data={"password": PASSWORD})
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    asyncio.run(connecting(Cookie=cookie))
    with pytest.raises(websockets.InvalidStatus):
        asyncio.run(connecting(Cookie=cookie, Origin="http://evil.org"))


def test_uploads_need_the_token_against_forged_requests(address):
    with httpx.Client(base_url=address) as client:
        client.post(ENTER, data={"password": PASSWORD})
        upload = client.put("/_stcore/upload_file/session/file", files={"file": b"x"})
        assert (upload.status_code, "XSRF" in upload.text) == (403, True)


@contextmanager
def signed_in(address):
    """A client that is in, and the stream of a page in the same session: a function that takes what to do with it."""
    with httpx.Client(base_url=address, timeout=PATIENCE / 1000) as client:
        client.post(ENTER, data={"password": PASSWORD})
        client.get("/_stcore/health")  # gives the token against forged requests
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        url = address.replace("http", "ws") + "/_stcore/stream"

        def streaming(action):
            async def connected():
                async with websockets.connect(
                    url, additional_headers={"Cookie": cookie}, subprotocols=["streamlit"], max_size=None
                ) as stream:
                    return await asyncio.wait_for(action(stream), PATIENCE / 1000)

            return asyncio.run(connected())

        yield client, streaming


@pytest.mark.parametrize(("more", "code"), [(0, 1002), (1, 1009)])
def test_a_message_of_more_than_8_mb_ends_the_connection_as_too_big(address, more, code):
    async def send(stream) -> int:
        await stream.send(b"\0" * (8_000_000 + more))  # no message of a page, whatever its size
        await stream.wait_closed()
        return stream.close_code

    with signed_in(address) as (_, streaming):
        assert streaming(send) == code


@pytest.mark.parametrize(("more", "status"), [(0, 204), (1, 413)])
def test_an_upload_of_more_than_20_mib_is_refused(address, more, status):
    async def upload(stream) -> int:
        await stream.send(BackMsg(rerun_script=ClientState()).SerializeToString())
        message = ForwardMsg()
        while message.WhichOneof("type") != "new_session":
            message.ParseFromString(await stream.recv())
        to = f"/_stcore/upload_file/{message.new_session.initialize.session_id}/file"
        header = {"X-Xsrftoken": client.cookies["_streamlit_xsrf"]}
        empty = client.build_request("PUT", to, files={"file": b""}).headers["content-length"]
        room = b"x" * ((20 << 20) - int(empty) + more)  # the form itself counts
        answer = await asyncio.to_thread(client.put, to, files={"file": room}, headers=header)
        return answer.status_code

    with signed_in(address) as (client, streaming):
        assert streaming(upload) == status


def test_the_password_is_neither_in_the_list_of_processes_nor_in_the_log(served):
    for file in ("cmdline", "environ"):
        assert PASSWORD.encode() not in Path(f"/proc/{served.process.pid}/{file}").read_bytes()
    assert PASSWORD not in served.output()


def test_it_says_that_the_network_is_not_encrypted(served):
    assert "unencrypted" in served.output()


def test_with_a_certificate_everything_goes_over_tls(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True,
    )  # fmt: skip
    options = ["--host", "0.0.0.0", "--certificate", str(certificate), "--key", str(key)]
    with serve_workbench(tmp_path / "log", *options, environment={VARIABLE: PASSWORD}) as served:
        with httpx.Client(base_url=served.address, verify=ssl.create_default_context(cafile=certificate)) as client:
            assert served.address.startswith("https://localhost:")
            assert client.get("/_stcore/health").status_code == 401
            answer = client.post(ENTER, data={"password": PASSWORD})
            assert "secure" in answer.headers["set-cookie"].lower()
            assert client.get("/_stcore/health").text == "ok"
        assert "unencrypted" not in served.output()


@pytest.mark.browser
def test_a_person_signs_in_works_and_signs_out(browser, address):
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}/probes?{quote('x y')}=1")
    page.get_by_label("Password").fill("a wrong password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("That is not the password.")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("What can be read from head mixing")).to_be_visible(timeout=PATIENCE)
    assert "/probes" in page.url
    [cookie] = [one for one in context.cookies() if one["name"].startswith("workbench_")]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    other = context.new_page()
    other.goto(f"{address}{LEAVE}")
    other.get_by_role("button", name="Sign out").click()
    other.goto(address)
    expect(other.get_by_label("Password")).to_be_visible()
    context.close()


@pytest.mark.browser
def test_the_link_of_a_token_signs_in_and_leaves_no_token_in_the_address(browser, tmp_path):
    with serve_workbench(tmp_path / "log", "--token") as served:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(served.link)
        page.get_by_test_id("token-strip").wait_for(timeout=PATIENCE)
        token = served.link.split("#")[1]
        assert token not in page.url
        assert token.encode() not in Path(f"/proc/{served.process.pid}/cmdline").read_bytes()
        stranger = browser.new_page()
        stranger.goto(served.address)
        expect(stranger.get_by_label("Password")).to_be_visible()
        page.close()
        stranger.close()
