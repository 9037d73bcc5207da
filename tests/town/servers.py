"""Servers of a test's network, on every address: HTTP at 80 and 8000, TLS at 443, git over https at 8443, an echo at 7000, also of datagrams, and an
abstract socket.

Usage: servers.py FOLDER, which has server.crt and server.key, and repositories below it.
"""

import http.server
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import threading

FOLDER = sys.argv[1]


class Page(http.server.BaseHTTPRequestHandler):
    """Says by which name it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"hello to {self.headers.get('Host')}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


class Git(http.server.BaseHTTPRequestHandler):
    """git's own server side, as CGI."""

    protocol_version = "HTTP/1.1"

    def serve(self):
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": FOLDER,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(length),
            "REMOTE_ADDR": "test",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }
        backend = "/usr/lib/git-core/git-http-backend"
        said = subprocess.run([backend], input=self.rfile.read(length), env=environment, capture_output=True, check=False).stdout
        head, _, body = said.partition(b"\r\n\r\n")
        lines = [line.decode().split(": ", 1) for line in head.split(b"\r\n") if line]
        status = next((int(value.split()[0]) for key, value in lines if key.lower() == "status"), 200)
        self.send_response(status)
        for key, value in lines:
            if key.lower() != "status":
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = serve

    def log_message(self, *words):
        pass


class Echo(socketserver.BaseRequestHandler):
    """Says back what it hears, and in a file when a connection has ended."""

    def handle(self):
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except OSError:
            pass
        with open(os.path.join(FOLDER, "ended"), "a") as file:
            file.write("ended\n")


class Everywhere(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 4096


class EverywhereEcho(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = daemon_threads = True
    request_queue_size = 4096


class Datagram(socketserver.BaseRequestHandler):
    """Says back what it hears."""

    def handle(self):
        data, stream = self.request
        stream.sendto(data, self.client_address)


class EverywhereDatagram(socketserver.ThreadingUDPServer):
    address_family = socket.AF_INET6
    daemon_threads = True


def abstract(listener):
    while True:
        stream, _ = listener.accept()
        stream.sendall(b"abstract")
        stream.close()


def serve(server, tls):
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.path.join(FOLDER, "server.crt"), os.path.join(FOLDER, "server.key"))
        # The handshake belongs to the connection's own thread.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()


nameless = socket.socket(socket.AF_UNIX)
nameless.bind("\0caisson-town")
nameless.listen()
threading.Thread(target=abstract, args=(nameless,), daemon=True).start()
serve(EverywhereDatagram(("::", 7000), Datagram), False)
for port, kind, tls in ((80, Page, False), (8000, Page, False), (443, Page, True), (8443, Git, True)):
    serve(Everywhere(("::", port), kind), tls)
serve(EverywhereEcho(("::", 7000), Echo), False)
threading.Event().wait()
