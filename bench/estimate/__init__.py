"""Estimates: from what was measured to what a job will take, with an interval and the evidence behind it.

Evidence is of two kinds: result files of one's own machine (own/) and measurements that others published
(results/published/, fitted into coefficients/*.json, which ship with the package). A `Job` says what is to be done;
physics turns it into terms of time, each with coefficients that were fitted to evidence; `Prediction` carries the
figure, its interval, its class of evidence and the basis in words. No evidence, no number.

    own/                    one's own machine ──┐
    training/  serving/     published steps ────┴──► answer/    from a step to a run: fits, days, kWh, money; plans
    operation/              published operations ──► rows.py    a CSV of jobs, of all three published kinds
"""
