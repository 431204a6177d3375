"""Makes the torch of the package index importable on a machine without CUDA, by empty libraries of the names it is linked with.

    python stub_libraries.py SITE_PACKAGES OUTPUT_FOLDER

The index's wheel for Linux is a CUDA build: loading it needs some gigabytes of NVIDIA's libraries even where only its CPU
half is used. Here every one of those names gets a library whose functions report "no device"; `torch.cuda.is_available()`
is then False, and everything on the CPU is torch's own code. Needs `readelf` and a C compiler. Nothing is changed in the
installed package: put the output folder into `LD_LIBRARY_PATH`.
"""

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

# The status "no CUDA-capable device is detected".
NO_DEVICE = 100
# Names of NVIDIA's libraries and the driver.
NVIDIA = re.compile(r"lib(cu|nv|nccl)")


class Library:
    """What one shared library needs and offers, by `readelf`."""

    def __init__(self, path):
        text = subprocess.run(
            ["readelf", "--wide", "--dynamic", "--version-info", "--dyn-syms", str(path)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        self.needs = set(re.findall(r"\(NEEDED\).*\[(.+?)\]", text))
        # Version name -> the library that must define it.
        self.versions = {}
        # Undefined (name, version or "") and defined names.
        self.wants, self.defines = set(), set()
        needed_file = None
        for line in text.splitlines():
            if found := re.search(r"Version: \d+\s+File: (\S+)", line):
                needed_file = found[1]
            elif needed_file and (found := re.search(r"Name: (\S+)\s+Flags:", line)):
                self.versions[found[1]] = needed_file
            elif found := re.match(r"\s*\d+: [0-9a-f]+\s+\S+\s+\S+\s+(\S+)\s+\S+\s+(\S+)\s+(\S+)", line):
                binding, section, symbol = found.groups()
                name, _, version = symbol.partition("@")
                if section != "UND":
                    self.defines.add(name)
                elif binding == "GLOBAL":
                    self.wants.add((name, version.lstrip("@")))


def body(name):
    """C source of one function: failure, except where a failure would stop the import."""
    if name == "cudaGetDeviceCount":
        return f"int {name}(int *count) {{ if (count) *count = 0; return {NO_DEVICE}; }}"
    if name in ("cudaDriverGetVersion", "cudaRuntimeGetVersion"):
        return f"int {name}(int *version) {{ if (version) *version = 0; return 0; }}"
    if name == "__cudaRegisterFatBinary":
        return f"void **{name}(void *binary) {{ static void *handle; return &handle; }}"
    if name.startswith("__cuda"):
        return f"int {name}(void) {{ return 0; }}"
    if re.search(r"(String|Name)$", name):
        return f'const char *{name}(int status) {{ return "no CUDA on this machine"; }}'
    return f"int {name}(void) {{ return {NO_DEVICE}; }}"


def compile_library(soname, functions, versions, folder):
    """Links one library. `functions` maps a version name ("" without) to the functions that carry it."""
    source, script, target = (folder / (soname + end) for end in (".c", ".map", ""))
    names = sorted(set().union(*functions.values())) if functions else []
    source.write_text("\n".join(map(body, names)) + "\n")
    command = [os.environ.get("CC", "cc"), "-O1", "-w", "-shared", "-fPIC", str(source)]
    command += [f"-Wl,-soname,{soname}", "-o", str(target)]
    if versions:
        nodes = (f"{v} {{ global: {' '.join(n + ';' for n in sorted(functions.get(v, ())))} }};" for v in sorted(versions))
        script.write_text("\n".join(nodes) + "\n")
        command.append(f"-Wl,--version-script={script}")
    subprocess.run(command, check=True)
    source.unlink()
    script.unlink(missing_ok=True)


def main(site_packages, output):
    folder = Path(site_packages) / "torch" / "lib"
    paths = sorted(folder.glob("*.so*"))
    if not paths:
        raise SystemExit(f"{folder}: no libraries of torch there")
    libraries = [Library(path) for path in paths]
    own = {path.name for path in paths}
    missing = sorted(n for n in set().union(*(l.needs for l in libraries)) - own if NVIDIA.match(n))
    if not missing:
        print("this torch is linked with no library of CUDA: nothing to do")
        return
    versions = {v: file for library in libraries for v, file in library.versions.items()}
    defined = set().union(*(library.defines for library in libraries))
    functions = {name: defaultdict(set) for name in missing}
    for name, version in set().union(*(library.wants for library in libraries)):
        if name in defined or name.startswith(("Py", "_Py", "_Z")):
            continue
        if versions.get(version) in functions:
            functions[versions[version]][version].add(name)
        elif not version:
            # Which of them defines a name without a version does not matter to the loader.
            functions[missing[0]][""].add(name)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    for name in missing:
        compile_library(name, functions[name], {v for v, file in versions.items() if file == name}, output)
    count = sum(len(names) for by_version in functions.values() for names in by_version.values())
    print(f"{len(missing)} libraries with {count} functions in {output}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
