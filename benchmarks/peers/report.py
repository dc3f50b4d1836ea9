import json
from dataclasses import asdict
def write(results, plan, output):
    print(json.dumps(asdict(results)))
    if output: output.write_text(json.dumps(asdict(results)))
    return 0
