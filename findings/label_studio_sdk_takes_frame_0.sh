#!/usr/bin/env bash
# Regions of a time line that label-studio-sdk takes for valid, and a task whose predictions it cannot validate.
#
# Guess: what LabelInterface.validate_prediction finds no fault with is a prediction that the editor shows as meant; and
# validate_task says whether a task is valid, predictions and all.
# Seen with label-studio-sdk 2.1.2: frames of Label Studio's time line are counted from 1, whole and in order, but frame 0,
# frame 1.5 and a range from 9 to 3 are valid. validate_task raises TypeError as soon as the task has predictions.
#
# Needs bash, python3 (3.11 or 3.12) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check label-studio-sdk==2.1.2
cd "$folder"
venv/bin/python - <<'PYTHON'
from label_studio_sdk.label_interface import LabelInterface

interface = LabelInterface(
    """<View><Video name="video" value="$video"/>
    <TimelineLabels name="emotions" toName="video"><Label value="joy"/><Label value="fear"/></TimelineLabels></View>"""
)


def prediction(start, end, label="joy"):
    value = {"ranges": [{"start": start, "end": end}], "timelinelabels": [label]}
    named = {"id": "a", "type": "timelinelabels", "from_name": "emotions", "to_name": "video"}
    return {"model_version": "1", "score": 0.5, "result": [named | {"value": value}]}


for start, end in [(1, 9), (0, 9), (1.5, 9), (9, 3)]:
    mistakes = interface.validate_prediction(prediction(start, end), return_errors=True)
    print(f"{start} to {end}: {mistakes}")
    assert mistakes == []
assert interface.validate_prediction(prediction(1, 9, "glee"), return_errors=True)
task = {"data": {"video": "https://host/clip.mp4"}}
assert interface.validate_task(task)
try:
    interface.validate_task(task | {"predictions": [prediction(1, 9)]})
    raised = None
except TypeError as error:
    raised = error
print(f"a task with predictions: {raised!r}")
assert raised is not None
PYTHON
echo "as described"
