"""`make bench`: the speed of the rendered project beside stock arq, SAQ and taskiq.

- `__main__`, `parts`, `frame` and `report` run on this repository's interpreter: the command, what it
  measures, how, and the tables of the documentation;
- `project` and `workers` on that of a rendered project, with its code;
- `stock_arq`, `saq_jobs` and `taskiq_jobs` are the others, as their documentation sets them up;
- `jobs` has the two jobs that all of them run.
"""
