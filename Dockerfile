# The connector, and the control plane that ships with it: one image, one verb each.
#
#   docker build -t apono-connector .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges --stop-timeout 35 ... apono-connector connector
#
# Nothing is written outside /var/lib/apono; the control plane keeps its state there and needs a volume on it.
# Behind a proxy with a certificate authority of its own: give a BASE that trusts it (NODE_EXTRA_CA_CERTS), as
# docker/base-images.sh makes one.
ARG BASE=node:24-bookworm-slim

FROM ${BASE} AS build
# For those with a mirror; without a value it is not set at all.
ARG NPM_CONFIG_REGISTRY
WORKDIR /app
COPY package.json package-lock.json ./
# No install script is needed: the add-ons of ssh2 are optional, and `node` is not for production.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund --no-update-notifier
COPY docker/healthcheck.ts docker/warm-up.ts ./docker/
COPY src ./src
# A checkout under a strict umask is for its owner only; the image's user is another.
RUN chmod -R a+rX /app && install -d -m 0755 -o 1000 -g 1000 compile-cache

# Compiled beforehand, by the same user, as Node.js keys it: a start takes half the time and a connector a fifth less
# memory, since neither TypeScript nor a cloud's library has to be parsed. Nobody can change it where it runs.
USER 1000:1000
ENV NODE_COMPILE_CACHE=/app/compile-cache
RUN node docker/warm-up.ts && node src/cli.ts --version && chmod -R a+rX compile-cache

FROM ${BASE}
LABEL org.opencontainers.image.title="apono-connector" \
      org.opencontainers.image.description="Just-in-time SSH access to Linux servers: a connector and the control plane that ships with it" \
      org.opencontainers.image.licenses="Apache-2.0"

# Volumes that are new take over owner and mode of what they are mounted on.
RUN install -d -m 0755 /var/lib/apono \
 && install -d -m 0700 -o 1000 -g 1000 \
      /var/lib/apono/connector /var/lib/apono/control-plane /var/lib/apono/standalone

WORKDIR /app
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/package.json ./
COPY --from=build /app/docker ./docker
COPY --from=build /app/src ./src
COPY --from=build --chown=0:0 /app/compile-cache ./compile-cache

# The user `node` of the base image, as numbers: only those can be seen not to be root before anything runs.
USER 1000:1000
ENV NODE_ENV=production
ENV NODE_COMPILE_CACHE=/app/compile-cache
# Of the connector's health endpoint, and where the control plane listens by default.
EXPOSE 8080 8443
# Orchestrators should leave 35 s: a connector ends its work within 25.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s --retries=3 \
  CMD ["node", "/app/docker/healthcheck.ts"]
ENTRYPOINT ["node", "/app/src/cli.ts"]
CMD ["connector"]
