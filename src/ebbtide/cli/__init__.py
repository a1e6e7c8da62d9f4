"""The command line: `ebbtide NOUN VERB`.

It talks to the controller's REST interface only (`client`), so it works from another machine as it works here. Two commands are
more than a client: `controller` runs one, and `lab` makes emulated computes. Both are imported when they are called, and nothing
else is imported early either: `ebbtide --help` and `ebbtide computes` are used in loops, and have 0.2 s.

    main        the root command; errors become messages and exit codes
    tree        which command is in which file, aliases, short forms
    session     what is common to all client verbs: --url, --lab, --json
    client      one HTTP call        render   tables        verdicts   one answer per id
"""
