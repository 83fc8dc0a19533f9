"""A web server over a trained run: `python -m ekpnet_fast.serve RUN`. Needs the extra `serve`.

`app.py` has the endpoints, `schemas.py` what they take and give, `engine.py` what answers. A
request passes `guard.py`, and computes on a thread of `pool.py`. `page/` is the web page.
"""
