# The service over an exported run, on a CPU: docs/serve.md.
#   docker build --tag imat-serve .
#   docker run --rm --publish 127.0.0.1:8000:8000 --read-only --tmpfs /tmp --env IMAT_TOKEN \
#     --volume "$PWD/runs/demo-artifact:/artifact:ro" imat-serve
FROM python:3.11-slim-bookworm

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 XDG_CACHE_HOME=/tmp/cache
WORKDIR /app
COPY pyproject.toml requirements.txt requirements-offline.txt README.md LICENSE ./
COPY imat_jax imat_jax
# Ranges are in pyproject.toml.
# hadolint ignore=DL3013
RUN pip install '.[media,serve]' && pip install --no-deps -r requirements-offline.txt

# Uploads are decoded by a process that has no more rights than this user.
RUN useradd --system --no-create-home --uid 10001 imat
USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=120s CMD ["python", "-c", \
  "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["python", "-m", "imat_jax.serve", "/artifact", "--host=0.0.0.0"]
