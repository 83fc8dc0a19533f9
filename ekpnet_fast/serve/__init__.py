"""Web server over a trained run: `python -m ekpnet_fast.serve RUN`. Needs the extra `serve`.

A request passes `guard.py`. A well-formed question is answered by `direct.py`, all else by the
endpoints of `app.py`, with `refusals.py` for what is refused. `answers.py` has an `engine.py`
compute on the threads of `pool.py`; `changes.py` has it change what is served, if that is allowed.
`schemas.py` are the requests and answers, `page/` is the page.
"""
