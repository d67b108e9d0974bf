"""The programs that drive coding agents: one process per attempt, between the supervisor and the agent.

A driver prepares the agent's clone, talks to the agent in the agent's own protocol, and writes down what happens as
records (`records.py`), which the server reads. It goes on when the server dies, like everything below a supervisor.
"""
