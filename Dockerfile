# dqn_zoo for a CPU:
#   docker build -t dqn-zoo .
#   mkdir -p logs
#   docker run --rm -it -v "$PWD/logs:/runs/logs" dqn-zoo
# and in the shell: dqn-train --env Pong --algo laptop
# The user in the container has UID 1000; if yours is another: --user "$(id -u)".
FROM python:3.13-slim-trixie AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/dqn-zoo \
    && /opt/dqn-zoo/bin/pip install --no-cache-dir -c constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu "torch==$(sed -n 's/^torch==//p' constraints.txt)+cpu" . \
    && find /opt/dqn-zoo -name __pycache__ -prune -exec rm -r {} +

FROM python:3.13-slim-trixie
# What OpenCV's wheel expects of the system.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0t64 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/dqn-zoo /opt/dqn-zoo
ENV PATH=/opt/dqn-zoo/bin:$PATH \
    HOME=/runs \
    MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --uid 1000 --home-dir /runs --no-create-home player \
    && mkdir -p /runs/logs && chown -R 1000 /runs && chmod -R a+rwX /runs
USER 1000
WORKDIR /runs
CMD ["bash"]
