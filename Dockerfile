# Two images: `api`, which also runs migrations and the maintainer, has no torch; `worker` has it.
#
#   docker build --target api    -t gradinspect-api .
#   docker build --target worker -t gradinspect-worker .
#
# TORCH_INDEX is an additional package index for torch. If empty, pip installs the wheel of its default index, which on
# x86-64 includes CUDA. PyTorch's CPU index gives a much smaller image, its index of a CUDA version one for that version.
# The packages of `api` are checked against hashes; torch and what only the engine needs are pinned by version, because
# each index has its own build of torch.

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/venv/bin:$PATH
RUN python -m venv /venv
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY gradinspect gradinspect
COPY service service
COPY workers workers
COPY migrations migrations
RUN pip install --require-hashes --no-deps -r constraints/server.txt && pip install --no-deps .

FROM build AS build-worker
ARG TORCH_INDEX=""
RUN pip install -c constraints/cpu.txt -c constraints/locked.txt \
      ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} '.[server,engine]'

FROM python:3.11-slim AS runtime
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin gradinspect \
 && install -d -o gradinspect -g gradinspect -m 750 /data \
 && install -d -o gradinspect -g gradinspect -m 700 /keys
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    GRADINSPECT_DATA_DIR=/data GRADINSPECT_LOG_FORMAT=json
WORKDIR /data
USER 10001

FROM runtime AS worker
COPY --from=build-worker /venv /venv
CMD ["gradinspect", "worker"]

FROM runtime AS api
COPY --from=build /venv /venv
ENV GRADINSPECT_HOST=0.0.0.0 GRADINSPECT_PORT=8080
EXPOSE 8080
CMD ["gradinspect", "api"]
