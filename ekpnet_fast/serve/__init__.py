"""Web server over a trained run: `python -m ekpnet_fast.serve RUN`. Needs the extra `serve`.

`app.py` has the endpoints, `schemas.py` their requests and answers, `engine.py` the answering. A
request passes `guard.py`, and computes on a thread of `pool.py`. `page/` is the web page.
"""
