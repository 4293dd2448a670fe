# The image of the service: two targets, cpu and gpu (the default, last). Neither holds torch.
#   docker build -t anomaly .                    docker run --gpus all -p 8000:8000 anomaly
#   docker build --target cpu -t anomaly:cpu .   docker run -p 8000:8000 -v "$PWD/models:/app/models:ro" --read-only anomaly:cpu
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

# The wheel of this project, and nothing else of the build.
FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY pyproject.toml README.md ./
COPY service ./service
COPY training ./training
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${PYTHON_IMAGE} AS install-cpu
COPY constraints.txt /
RUN python -m venv /venv
COPY --from=wheel /wheels /wheels
RUN wheel=$(ls /wheels/*.whl) && /venv/bin/pip install --no-cache-dir -c /constraints.txt "${wheel}[cpu,sign,trace]" \
    && /venv/bin/pip uninstall --yes pip setuptools

FROM ${PYTHON_IMAGE} AS install-gpu
COPY constraints.txt /
RUN python -m venv /venv
COPY --from=wheel /wheels /wheels
# cuda,cudnn: the CUDA 13 libraries as wheels, so that the host needs only a driver
RUN wheel=$(ls /wheels/*.whl) && /venv/bin/pip install --no-cache-dir -c /constraints.txt "${wheel}[cuda,sign,trace]" \
    && /venv/bin/pip uninstall --yes pip setuptools

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ANOMALY_HOST=0.0.0.0 ANOMALY_PORT=8000 ANOMALY_MODELS_DIR=/app/models
WORKDIR /app
# One bundle is baked in, so that the image answers at once; mount a folder of your own over it.
COPY models/example ./models/example
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ.get(\"ANOMALY_PORT\") or 8000}/health', timeout=2)"]
ENTRYPOINT ["python", "-m", "service"]
CMD ["serve"]

FROM base AS cpu
COPY --from=install-cpu /venv /venv

FROM base AS gpu
COPY --from=install-gpu /venv /venv
