# The serve command in a container; docs/serving.md says how to run it.
#
#     docker build -t segkit .
#
# The torch that pip finds computes on CPUs and with CUDA. PyTorch has indexes with smaller builds for
# the CPU alone and for other versions of CUDA; its "Get Started" page names their addresses:
#
#     docker build -t segkit --build-arg TORCH_INDEX=ADDRESS .

ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ARG TORCH_INDEX=
WORKDIR /source
COPY constraints.txt ./
RUN python -m venv /opt/segkit \
 && /opt/segkit/bin/pip install --no-cache-dir --constraint constraints.txt \
    ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY segkit segkit
RUN /opt/segkit/bin/pip install --no-cache-dir --constraint constraints.txt '.[serve,onnx]'

FROM python:${PYTHON}
COPY --from=build /opt/segkit /opt/segkit
# The file system may be read-only. Uploads above 1 MiB and caches of libraries go to /tmp.
ENV PATH=/opt/segkit/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
# Python heeds it as the first process of a container too, at any time.
STOPSIGNAL SIGINT
HEALTHCHECK --start-period=120s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["python", "-m", "segkit.serve", "host=0.0.0.0", "port=8000"]
CMD ["checkpoint=/model/best.ckpt"]
