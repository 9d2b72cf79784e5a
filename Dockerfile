# Three images of one product. Build with:
#   docker build --target vaultbrix  -t vaultbrix .
#   docker build --target postgresql -t vaultbrix-postgresql .
#   docker build --target data-api   -t vaultbrix-data-api --build-arg POSTGREST=postgrest/postgrest@sha256:... .
ARG BASE=debian:bookworm-slim
ARG POSTGRESQL_BASE=debian:trixie-slim
# The version that the tests run; for production name a maintained one by its digest.
ARG POSTGREST=docker.io/postgrest/postgrest:v12.0.2

FROM ${POSTGREST} AS postgrest

FROM ${BASE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-dev python3-pip gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements.lock ./
RUN python3 -m pip install --require-hashes --no-compile --target /opt/vaultbrix/lib/python3.11/site-packages -r requirements.lock \
    && rm -rf /opt/vaultbrix/lib/python3.11/site-packages/bin
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN python3 -m pip install --no-deps --no-compile --target /opt/vaultbrix/lib/python3.11/site-packages . \
    && rm -rf /opt/vaultbrix/lib/python3.11/site-packages/bin \
    && mkdir -p /opt/vaultbrix/bin \
    && printf '%s\n' '#!/usr/bin/python3 -sP' 'import sys' \
       'sys.path.insert(0, "/opt/vaultbrix/lib/python3.11/site-packages")' \
       'from vaultbrix.cli.main import app' 'app()' > /opt/vaultbrix/bin/vaultbrix \
    && chmod 0755 /opt/vaultbrix/bin/vaultbrix

FROM ${BASE} AS vaultbrix
RUN apt-get update && apt-get install -y --no-install-recommends python3 libxtables12 libip4tc2 libip6tc2 iptables nftables ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && echo "vaultbrix:x:65532:65532::/nonexistent:/usr/sbin/nologin" >> /etc/passwd \
    && echo "vaultbrix:x:65532:" >> /etc/group
COPY --from=build /opt/vaultbrix /opt/vaultbrix
ENV PATH=/opt/vaultbrix/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["/opt/vaultbrix/bin/vaultbrix"]

FROM vaultbrix AS data-api
USER root
RUN apt-get update && apt-get install -y --no-install-recommends nginx-light && rm -rf /var/lib/apt/lists/*
COPY --from=postgrest /bin/postgrest /usr/local/bin/postgrest
USER 65532:65532

FROM ${POSTGRESQL_BASE} AS postgresql
RUN mkdir -p /etc/postgresql-common && echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf \
    && groupadd --gid 5432 postgres && useradd --uid 5432 --gid 5432 --home-dir /var/lib/postgresql --no-create-home postgres \
    && apt-get update && apt-get install -y --no-install-recommends postgresql-17 postgresql-17-pgaudit ca-certificates \
    && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/* /etc/postgresql
ENV PATH=/usr/lib/postgresql/17/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
# Fast shutdown: sessions end, nothing waits for them.
STOPSIGNAL SIGINT
USER 5432:5432
