# syntax=docker/dockerfile:1
ARG NODE_VERSION=22

# build compiles the sources
FROM node:${NODE_VERSION}-alpine AS build
WORKDIR /src
COPY package.json package-lock.json ./
RUN --mount=type=cache,target=/root/.npm \
    npm ci
COPY . .
RUN npm run build && \
    # keep only what runs
    npm prune --omit=dev

FROM nginx:1.27-alpine
COPY --from=build --chown=nginx:nginx /src/dist /usr/share/nginx/html
EXPOSE 80 443/tcp
HEALTHCHECK --interval=30s --timeout=3s CMD wget -q -O- http://localhost/ || exit 1
CMD ["nginx", "-g", "daemon off;"]
