// Stands in for the native package `grpc`, which does not build on today's Node: the same names, from @grpc/grpc-js.
"use strict";

const grpc = require("@grpc/grpc-js");

class Server extends grpc.Server {
  // The old package bound at once and told the port; this one tells of trouble later, and then nothing can be served.
  bind(address, credentials) {
    this.bindAsync(address, credentials, error => {
      if (error) {
        console.error(`cannot listen on ${address}: ${error.message}`);
        process.exit(1);
      }
    });
    return Number(address.slice(address.lastIndexOf(":") + 1));
  }

  // Bound is started.
  start() {}
}

module.exports = { ...grpc, Server };
