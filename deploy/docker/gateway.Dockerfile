# The gateway (and simulated replicas): docker build -f deploy/docker/gateway.Dockerfile -t slosgate .
FROM python:3.12-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/slosgate \
 && /opt/slosgate/bin/pip install --no-cache-dir -c constraints.txt .
# The planner is compiled once, here: else the first start of each container does it, for a minute.
ENV NUMBA_CACHE_DIR=/opt/slosgate/numba
RUN /opt/slosgate/bin/slosgate warm-up

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home slosgate
COPY --from=build /opt/slosgate /opt/slosgate
ENV PATH=/opt/slosgate/bin:$PATH \
    NUMBA_CACHE_DIR=/opt/slosgate/numba \
    PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8000
ENTRYPOINT ["slosgate"]
CMD ["serve", "--host", "0.0.0.0"]
