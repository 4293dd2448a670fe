# %% [markdown]
# # From a table to explained scores
#
# Real data: 569 breast tumours, 30 measurements of the cell nuclei of each, from the table that comes with scikit-learn
# (Street, Wolberg and Mangasarian 1993). 357 are benign: they stand for what is normal. The model never sees a malignant one
# before it is asked about it.
#
# The cells of this file run in Jupyter, VS Code or PyCharm, or all at once: `python examples/walkthrough.py`.

# %%
import atexit
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from service.client import Client

folder = Path(tempfile.mkdtemp(prefix="walkthrough-"))
python = [sys.executable, "-m"]

# %% [markdown]
# ## The table
#
# A third is kept apart, to ask the finished model about. Every column becomes a feature by itself; `diagnosis` is the label.

# %%
data = load_breast_cancer(as_frame=True)
table = data.data.round(6).assign(diagnosis=data.target.map(dict(enumerate(data.target_names))))
fitted, fresh = train_test_split(table, test_size=1 / 3, random_state=0, stratify=table["diagnosis"])
fitted.to_csv(folder / "tumours.csv", index=False)
print(fitted["diagnosis"].value_counts().to_dict(), "to fit on, of which the benign ones are used")

# %% [markdown]
# ## Training
#
# With fewer than 1,000 normal records none is held out: each is judged by the net, the memory and the centres that lack it.
# 238 of them support false-alarm rates of 1/239 and more; 5 % are asked for.

# %%
models = str(folder / "models")
fit = [*python, "training", "fit", str(folder / "tumours.csv"), "--model", "tumours", "--models-dir", models]
fit += ["--label", "diagnosis", "--normal", "benign", "--target-fpr", "0.05"]
bundle = Path(subprocess.run(fit, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
print(f"published {bundle.name}, report: {bundle / 'report.html'}")

# %% [markdown]
# ## Serving
#
# As in production, by the command; here on a port that is free.

# %%
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = str(probe.getsockname()[1])
serve = [*python, "service", "serve", "--models-dir", models, "--port", port]
with open(folder / "service.log", "w") as log:
    server = subprocess.Popen(serve, stderr=log)
atexit.register(server.kill)  # should a cell fail
client = Client(f"http://127.0.0.1:{port}")
for _ in range(600):
    try:
        client.health()
        break
    except httpx.TransportError:
        assert server.poll() is None, (folder / "service.log").read_text()
        time.sleep(0.1)
print(f"the page to look at: http://127.0.0.1:{port}/")

# %% [markdown]
# ## Scoring
#
# Tables go as they are, by Arrow. The p-value of a benign tumour is 0.05 or less in about 5 cases of 100, as was asked for.

# %%
records = fresh.drop(columns="diagnosis").reset_index(drop=True)
malignant = (fresh["diagnosis"] == "malignant").to_numpy()
scores = pd.DataFrame.from_arrow(client.score_table(records))
auroc = roc_auc_score(malignant, scores["score"])
flagged = scores["is_anomaly"].to_numpy()
caught, alarms = flagged[malignant].mean(), flagged[~malignant].mean()
print(f"AUROC {auroc:.3f}; flagged: {caught:.0%} of the malignant, {alarms:.0%} of the benign")

# %% [markdown]
# ## Explaining
#
# Which measurements make the oddest tumour odd? The contributions of all 30 sum to its score; `expected` is what the model
# would have expected there.

# %%
oddest = int(scores["score"].idxmax())
(result,) = client.score([records.iloc[oddest].to_dict()]).results
print(f"tumour {oddest}: score {result.score:.2f}, p-value {result.p_value:.4f}, {result.severity}")
for reason in result.contributions[:5]:
    print(f"  {reason.contribution:5.2f}  {reason.feature}: {reason.value:g}, expected {reason.expected:g}")
assert abs(sum(reason.contribution for reason in result.contributions) - result.score) <= 1e-4 * result.score

# %% [markdown]
# A benign tumour, for comparison: nothing to explain, unless `explain="all"` asks for it.

# %%
usual = int(scores["score"].where(~malignant).idxmin())
(result,) = client.score([records.iloc[usual].to_dict()]).results
print(f"tumour {usual}: score {result.score:.2f}, p-value {result.p_value:.4f}, contributions: {result.contributions}")

# %% [markdown]
# ## How strict?
#
# Another false-alarm rate needs no new model: it is asked for with the request.

# %%
for alpha in (0.01, 0.05, 0.2):
    at = pd.DataFrame.from_arrow(client.score_table(records, alpha=alpha))["is_anomaly"].to_numpy()
    print(f"alpha {alpha:4.0%}: flagged {at[malignant].mean():4.0%} of the malignant, {at[~malignant].mean():4.0%} of the benign")

# %%
client.close()
server.terminate()
server.wait()
