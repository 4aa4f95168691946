# A vLLM replica with the scheduler plug-in: docker build -f deploy/docker/vllm.Dockerfile -t slosgate-vllm .
ARG VLLM=v0.33.0
FROM vllm/vllm-openai:${VLLM}
WORKDIR /src
COPY . .
# vLLM stays as it is: only what it lacks is installed beside it.
RUN python3 -m pip install --no-cache-dir . scipy
ENV NUMBA_CACHE_DIR=/opt/slosgate-numba \
    PYTHONUNBUFFERED=1
RUN slosgate warm-up && chmod -R a+rX /opt/slosgate-numba
RUN useradd --uid 10001 --create-home slosgate
USER 10001
WORKDIR /home/slosgate
EXPOSE 8000
ENTRYPOINT ["slosgate"]
CMD ["engine", "vllm", "--help"]
