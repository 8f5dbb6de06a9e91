# A substitute for the image `postgres`, made of Debian packages, for tests that cannot reach an image registry.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-15 && rm -rf /var/lib/apt/lists/*
ENV PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data
RUN mkdir "$PGDATA" && chown postgres:postgres "$PGDATA" && chmod 700 "$PGDATA"
USER postgres
CMD set -e; \
    if [ ! -s "$PGDATA/PG_VERSION" ]; then \
        printf %s "$POSTGRES_PASSWORD" > /tmp/password; \
        initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256; \
        rm /tmp/password; \
        echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"; \
        pg_ctl start -w -o "-c listen_addresses= -k /tmp"; \
        PGPASSWORD="$POSTGRES_PASSWORD" createdb -h /tmp -U "$POSTGRES_USER" "$POSTGRES_DB"; \
        pg_ctl stop -w; \
    fi; \
    exec postgres -c listen_addresses='*'
