"""The report of a run: read from its folder in S3, shown on one page.

    read.py      run.json, metrics and the jobs' descriptions -> RunFacts
    reader.py    one file at a time; damage is told and costs no more than the file
    figures.py   RunFacts -> the figures of each leg and of the run
    series.py    metrics lines -> curves, thinned to what a screen can show
    document.py  figures and curves -> report.json
    page.py      report.json -> report.html, self-contained; overview.py and tables.py are its parts
    sinks.py     the run -> trackers and Model Registry, where settings name them

Runs in a Lambda function: standard library and boto3 only.
"""
