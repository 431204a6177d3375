#!/usr/bin/env python3
"""Predicted cycles of the product loops in the bare-metal image, by llvm-mca.

    cargo xtask image && tools/mca.py [IMAGE_ELF]

Needs llvm-objdump and llvm-mca (Debian: llvm). Loops are found by their function and told apart by what only they
contain, since a symbol does not say which type it was compiled for. Bytes are those of packed weights.
"""
import re
import shutil
import subprocess
import sys

ELF = sys.argv[1] if len(sys.argv) > 1 else "target/aarch64-unknown-none/image/barelm-image"
FEATURES = "+dotprod,+i8mm"
A53, A72, A76, N1, N2 = "cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1", "neoverse-n2"
# Name; function; how often the loop has some instructions; products and weight bytes of a pass; CPU models.
NEON, ONE = "neon6packed8products6groups", "dotprod3one15pairs_of_groups"
KERNELS = [
    ("`neon` Q4_0, 8 rows, 1 position", NEON, dict(ld4r=2, fcvtl=1, ushr=8, tbl=0), 256, 144, [A53, A72]),
    ("`neon` Q4_0, 8 rows, 2 positions", NEON, dict(ld4r=4, fcvtl=1, ushr=8, tbl=0), 512, 144, [A53, A72]),
    ("`neon` Q4_1, 8 rows, 1 position", NEON, dict(ld4r=2, fcvtl=2, ushr=8, tbl=0), 256, 160, [A53, A72]),
    ("`neon` Q8_0, 8 rows, 1 position", NEON, dict(ld4r=2, sadalp=12), 256, 272, [A53, A72]),
    ("`dotprod` Q4_0, 16 rows, 1 position", ONE, dict(shl=16), 512, 288, [A76, N1]),
    ("`dotprod` Q4_1, 16 rows, 1 position", ONE, dict(ushr=16), 512, 320, [A76, N1]),
    ("`dotprod` Q8_0, 16 rows, 1 position", ONE, dict(shl=0, ushr=0), 512, 544, [A76, N1]),
    ("`dotprod` panels, 4 rows, 16 positions", "dotprod4tile17sixteen", dict(sdot=128, fmla=16), 2048, 144, [A76, N1]),
    ("the same with minima", "dotprod4tile17sixteen", dict(sdot=128, fmla=32), 2048, 160, [A76, N1]),
    ("`i8mm` panels, 4 rows, 16 positions", "i8mm4tile17sixteen", dict(smmla=64, fmla=16), 2048, 160, [N2]),
    ("the same with minima", "i8mm4tile17sixteen", dict(smmla=64, fmla=32), 2048, 192, [N2]),
]


def tool(name):
    for found in (f"{name}-19", name):
        if shutil.which(found):
            return found
    sys.exit(f"{name} is missing: apt-get install llvm")


def functions():
    """Instructions of each function, as (address, text)."""
    command = [tool("llvm-objdump"), "-d", "--no-show-raw-insn", f"--mattr={FEATURES}", ELF]
    found, name = {}, None
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if match := re.match(r"([0-9a-f]+) <(.*)>:", line):
            name = match[2]
        elif (match := re.match(r"\s*([0-9a-f]+):\s+(.*)", line)) and name:
            found.setdefault(name, []).append((int(match[1], 16), match[2].split(" <")[0]))
    return found


def loops(body):
    """Innermost loops: from a backward branch's target to the branch, none inside another."""
    spans = []
    for address, text in body:
        match = re.match(r"(?:b\.\w+|cbn?z|tbn?z|b)\s.*0x([0-9a-f]+)", text)
        if match and body[0][0] <= int(match[1], 16) < address:
            spans.append((int(match[1], 16), address))
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [[text for address, text in body if start <= address <= end] for start, end in inner]


def predict(loop, cpu):
    """Cycles of one pass in a steady state, and the least that the busiest port allows."""
    lines = [re.sub(r"^(b\.\w+|cbn?z|tbn?z)\s.*", "nop", line) for line in loop]
    command = [tool("llvm-mca"), "-mtriple=aarch64", f"-mcpu={cpu}", f"-mattr={FEATURES}", "-iterations=200"]
    run = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True)
    match = re.search(r"Total Cycles:\s+(\d+)", run.stdout)
    ports = re.search(r"Block RThroughput:\s+([\d.]+)", run.stdout)
    if not match:
        sys.exit(f"llvm-mca for {cpu}: {run.stderr[:400]}")
    return int(match[1]) / 200, float(ports[1])


def matches(loop, counts):
    mnemonics = [text.split()[0] for text in loop]
    return len(loop) > 40 and all(mnemonics.count(name) == count for name, count in counts.items())


def main():
    found = functions()
    print("| loop | instructions | products | weight bytes | CPU model | cycles | port bound | products a cycle |")
    print("|---|---|---|---|---|---|---|---|")
    for name, function, counts, products, size, cpus in KERNELS:
        bodies = [body for symbol, body in found.items() if function in symbol]
        candidates = [loop for body in bodies for loop in loops(body) if matches(loop, counts)]
        if not candidates:
            sys.exit(f"{name}: no such loop in {ELF}")
        loop = min(candidates, key=len)
        for cpu in cpus:
            cycles, bound = predict(loop, cpu)
            print(
                f"| {name} | {len(loop)} | {products} | {size} | {cpu} | {cycles:.0f} | {bound:.0f} "
                f"| {products / cycles:.1f} |"
            )


main()
