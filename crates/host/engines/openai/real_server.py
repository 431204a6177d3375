"""llama.cpp's own server on a port of this machine, by the package `xllamacpp`, until the end of standard input.

    python real_server.py MODEL.gguf PORT [SLOTS [THREADS]]

Prints its address when it answers; with port 0 the system chooses one.
"""

import sys

import xllamacpp


def main(model, port, slots="4", threads="2"):
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = int(port)
    parameters.n_parallel = int(slots)
    parameters.n_ctx = 1024 * int(slots)
    parameters.cpuparams.n_threads = int(threads)
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4, 5):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
