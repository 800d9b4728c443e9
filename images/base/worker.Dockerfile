# The worker of an image whose environment is a stage `environment`, or its parent's: what it says of itself, and the
# harness. ENVIRONMENT is that environment.
ARG ENVIRONMENT
FROM ${ENVIRONMENT}
COPY . /opt/llmcbench/
RUN /opt/venv/bin/python -m compileall -q /opt/llmcbench
USER 65534:65534
ENTRYPOINT ["/opt/venv/bin/python", "-m", "harness"]
