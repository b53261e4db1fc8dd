"""Reads one engine's --describe from standard input and prints its section of docs/routes.md."""
import json
import sys

d = json.load(sys.stdin)
print(f"\n## {d['engine']} ({d['port']})\n\n{d['title']}.\n")
print("| | path or topic | level | deadline ms | scope | what |\n|---|---|---|---|---|---|")
for op in d["ops"]:
    if op.get("method"):
        kind, name = op["method"], op["path"]
    elif op.get("topic"):
        kind, name = "reads", op["topic"]
    else:
        continue
    print(f"| {kind} | `{name}` | {op['level']} | {op['deadline_ms'] or ''} | {op.get('scope', '')} | {op.get('help') or ''} |")
for topic in d.get("publishes") or []:
    print(f"| publishes | `{topic}` | | | | |")
