// The OpenAPI document as a page on which requests can be tried.
//
// A changer must know: the key is the one that the web app keeps for this tab; nothing is stored here.

const ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  validatorUrl: null, // another's server
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  onComplete: () => {
    const key = sessionStorage.getItem("calltide-key");
    if (key) ui.preauthorizeApiKey("HTTPBearer", key);
  },
});
